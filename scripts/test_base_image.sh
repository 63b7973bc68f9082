#!/usr/bin/env bash
# Builds the image that the examples and tests build upon, from Debian's packages alone: `test_base_image.sh NAME`.
# No image registry is needed. It trusts what this machine trusts, so that pip works inside as it does outside.
set -euo pipefail

name=$1
suite=${CUPOLA_TEST_SUITE:-bookworm}
bundle=/etc/ssl/certs/ca-certificates.crt

if docker image inspect "$name" >/dev/null 2>&1; then
    echo "Image $name is there already"
    exit
fi

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
echo "Building image $name from Debian $suite"
mmdebstrap --quiet --variant=minbase --include=python3,python3-pip,ca-certificates \
    "$suite" "$context/base.tar"
cp "$bundle" "$context/ca-certificates.crt"
cat >"$context/Dockerfile" <<'DOCKERFILE'
FROM scratch
ADD base.tar /
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt
RUN ln -sf python3 /usr/bin/python
CMD ["/bin/sh"]
DOCKERFILE
# The builder that every engine has: `buildx` is a package of its own, and may be missing.
DOCKER_BUILDKIT=0 docker build --quiet --tag "$name" "$context" >/dev/null
