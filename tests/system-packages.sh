#!/bin/sh
# What tests need of the system. Where it cannot be installed the tests that need it are skipped, and say so.
set -u
packages=""
for pair in chromium:chromium ffmpeg:ffmpeg; do
  command -v "${pair%%:*}" >/dev/null 2>&1 || packages="$packages ${pair##*:}"
done
[ -z "$packages" ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
  echo "not installed here:$packages; tests that need them are skipped" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # a list of names
apt-get update -qq && apt-get install -y -qq --no-install-recommends $packages >/dev/null ||
  echo "could not be installed:$packages; tests that need them are skipped" >&2
exit 0
