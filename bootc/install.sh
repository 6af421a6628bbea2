#!/bin/sh
# Puts what edged's image has beside the service under DESTINATION: sh bootc/install.sh DESTINATION
set -eu
here=$(cd "$(dirname "$0")" && pwd)
to=${1:?usage: install.sh DESTINATION}

put() { # SOURCE TARGET MODE
  mkdir -p "$to$(dirname "$2")"
  cp "$here/$1" "$to$2"
  chmod "$3" "$to$2"
}

put edged.toml /usr/lib/edged/edged.toml 0644
put kargs.d/50-edged.toml /usr/lib/bootc/kargs.d/50-edged.toml 0644
put greenboot/required.sh /usr/lib/greenboot/check/required.d/50-edged.sh 0755
put greenboot/wanted.sh /usr/lib/greenboot/check/wanted.d/50-edged.sh 0755
put greenboot/green.sh /usr/lib/greenboot/green.d/50-edged.sh 0755
put greenboot/red.sh /usr/lib/greenboot/red.d/50-edged.sh 0755
put greenboot/healthcheck.conf /usr/lib/systemd/system/greenboot-healthcheck.service.d/50-edged.conf 0644
