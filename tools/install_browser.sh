#!/usr/bin/env bash
# Chromium and its driver, which look at the HTML reports in the tests. Where Debian's packages cannot be installed, the
# tests that need them are skipped, and say so; with CI set they fail.
set -u

have() { command -v "$1" >/dev/null 2>&1; }
browser() { have chromium || have chromium-browser || have google-chrome; }
driver() { have chromedriver || [[ -x ${CHROMEWEBDRIVER:-}/chromedriver ]]; }

if browser && driver; then exit 0; fi
as_root=()
if [[ $(id -u) != 0 ]]; then
  if ! have sudo || ! sudo -n true 2>/dev/null; then
    echo "no chromium with chromedriver, and no right to install them: the tests of reports in a browser are skipped"
    exit 0
  fi
  as_root=(sudo -n)
fi
if have apt-get; then
  echo "installing chromium and its driver for the tests of reports ..."
  "${as_root[@]}" apt-get update -qq >/dev/null 2>&1
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    chromium chromium-driver fonts-dejavu-core >/dev/null 2>&1
fi
if browser && driver; then exit 0; fi
echo "chromium and chromedriver could not be installed: the tests of reports in a browser are skipped"
