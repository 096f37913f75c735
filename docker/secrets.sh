#!/bin/sh
# Makes the secrets that the services read from files, once; none of them is in git.
set -eu
cd "$(dirname "$0")"
# The folder is the lock: Compose mounts each file as it is, and the services, which
# do not run as you, must be able to read it.
mkdir -p secrets
chmod 700 secrets

secret() {
    test -s "secrets/$1" && return
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n' > "secrets/$1"
    chmod 644 "secrets/$1"
}

secret jupyter_token
secret s3_user
secret s3_password
if ! test -s secrets/s3_credentials; then
    {
        echo "[default]"
        echo "aws_access_key_id = $(cat secrets/s3_user)"
        echo "aws_secret_access_key = $(cat secrets/s3_password)"
    } > secrets/s3_credentials
    chmod 644 secrets/s3_credentials
fi
