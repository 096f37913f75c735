#!/bin/sh
# Writes name:version@sha256:… for each image in .env, as the registry says now. The
# digest is that of the index, so it holds on x86-64 and ARM alike.
set -eu
cd "$(dirname "$0")"
draft=$(mktemp)
while IFS= read -r line; do
    case $line in
    *_IMAGE=*)
        image=${line#*=}
        image=${image%@*}
        digest=$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$image")
        printf '%s=%s@%s\n' "${line%%=*}" "$image" "$digest"
        ;;
    *) printf '%s\n' "$line" ;;
    esac
done <.env >"$draft"
cat "$draft" >.env
rm "$draft"
