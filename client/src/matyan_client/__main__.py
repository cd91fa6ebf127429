"""`python -m matyan_client` is `matyan-client`."""

from matyan_client.cli import main

if __name__ == "__main__":
    main()
