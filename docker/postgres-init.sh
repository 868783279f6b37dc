#!/bin/sh
# Run once by the Postgres image, on an empty volume: a database and a role of its own for the answers of all runs, so
# that workers cannot touch the Prefect server's database.
set -eu
psql --set=ON_ERROR_STOP=1 --set=password="$STORE_PASSWORD" --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
CREATE ROLE tapir LOGIN PASSWORD :'password';
CREATE DATABASE tapir OWNER tapir;
REVOKE CONNECT ON DATABASE tapir FROM PUBLIC;
SELECT format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', current_database()) \gexec
SQL
