# One image for every service; the command line chooses which.
#   docker buildx build --platform linux/amd64,linux/arm64 -t matyan .
ARG FDB_VERSION=7.3.79

# Where FoundationDB's own client library comes from, for either architecture.
FROM foundationdb/foundationdb:${FDB_VERSION} AS foundationdb

FROM python:3.12-slim AS build
WORKDIR /app
COPY requirements.txt .
RUN python -m venv /venv \
 && /venv/bin/pip install --no-cache-dir -r requirements.txt \
 && /venv/bin/pip install --no-cache-dir --no-deps matyan-ui==0.3.2
COPY client client
RUN /venv/bin/pip install --no-cache-dir ./client

FROM python:3.12-slim
COPY --from=foundationdb /usr/lib/libfdb_c.so /usr/lib/libfdb_c.so
COPY --from=build /venv /venv
RUN useradd --uid 10001 --create-home --home-dir /data matyan
WORKDIR /app
COPY manage.py .
COPY matyan_project matyan_project
COPY frontier frontier
COPY backend backend
COPY workers workers
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MATYAN_DATA_DIR=/data \
    MATYAN_HOST=0.0.0.0 \
    MATYAN_LOG_FORMAT=json
USER matyan
VOLUME /data
EXPOSE 53800 53801
# The port follows the role; workers replace this check by their own in compose.yaml.
HEALTHCHECK --interval=15s --timeout=10s --start-period=30s \
    CMD ["python", "manage.py", "health"]
ENTRYPOINT ["python", "manage.py"]
CMD ["up"]
