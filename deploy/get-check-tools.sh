#!/bin/sh
# Puts promtool, Slurm and munge of Debian or Ubuntu into a folder, for `make deploy-check`.
# Nothing is installed: packages are unpacked, so no daemon is started and no user is made.
#   get-check-tools.sh FOLDER
set -eu
folder=${1:?usage: get-check-tools.sh FOLDER}
if [ -x "$folder/usr/bin/promtool" ] && [ -x "$folder/usr/sbin/slurmctld-wlm" ]; then exit 0; fi
if ! command -v apt-get >/dev/null; then
    echo "get-check-tools.sh: no apt-get here; promtool and Slurm must be on the PATH" >&2
    exit 0
fi
mkdir -p "$folder/debs/partial"
apt-get update --quiet=2
apt-get install --quiet=2 --yes --no-install-recommends --download-only \
    --option "Dir::Cache::archives=$(cd "$folder/debs" && pwd)" prometheus slurm-wlm munge
for deb in "$folder"/debs/*.deb; do dpkg-deb --extract "$deb" "$folder"; done
rm -r "$folder/debs"
