#!/bin/sh
# The browser that the page tests drive: Debian's, since Playwright's own download is not needed.
set -eu
command -v chromium >/dev/null 2>&1 && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing Debian's chromium for the page tests ..."
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null
else
    echo "The page tests need chromium on the PATH. Install it: apt-get install chromium" >&2
    exit 1
fi
