"""ORM rows for operations. Tracked data is not here: see `backend.storage`."""
