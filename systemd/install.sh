#!/bin/sh
# Puts edged's units and folders, the factory models and the root of trust under DESTINATION, as an image has them:
#   sh systemd/install.sh DESTINATION [HARDWARE_CLASS…]
# edged itself is expected in /usr/lib/edged/venv there.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
to=${1:?usage: install.sh DESTINATION [HARDWARE_CLASS…]}
shift

put() { # SOURCE TARGET
  mkdir -p "$to$(dirname "$2")"
  cp "$here/$1" "$to$2"
  chmod 0644 "$to$2"
}

for unit in edged.service edged-boot.service edged-os.path edged-os.service edged-os.timer edged-stick.service \
  edged-verify.service edged-verify.timer run-edgedstick.mount; do
  put "$unit" "/usr/lib/systemd/system/$unit"
done
put 90-edged-stick.rules /usr/lib/udev/rules.d/90-edged-stick.rules
put edged.sysusers.conf /usr/lib/sysusers.d/edged.conf
put edged.tmpfiles.conf /usr/lib/tmpfiles.d/edged.conf
put 50-edged.preset /usr/lib/systemd/system-preset/50-edged.preset
for class in "$@"; do
  put "classes/$class.conf" "/usr/lib/systemd/system/edged.service.d/50-$class.conf"
  if [ -e "$here/classes/$class.rules" ]; then put "classes/$class.rules" "/usr/lib/udev/rules.d/60-edged-$class.rules"; fi
  if [ -e "$here/classes/$class.sysusers" ]; then put "classes/$class.sysusers" "/usr/lib/sysusers.d/edged-$class.conf"; fi
  if [ -e "$here/classes/$class.service" ]; then put "classes/$class.service" "/usr/lib/systemd/system/edged-nodes.service"; fi
done

mkdir -p "$to/usr/share/edged/models" "$to/usr/bin" "$to/usr/share/doc/edged"
cp "$here"/../docs/*.md "$to/usr/share/doc/edged/"
cp -R "$here/../bootc/models/." "$to/usr/share/edged/models/"
if [ -e "$here/../bootc/trust/root.json" ]; then put ../bootc/trust/root.json /usr/share/edged/trust/root.json; fi
chmod -R u=rwX,go=rX "$to/usr/share/edged"
for command in edged edgectl; do
  ln -sf "../lib/edged/venv/bin/$command" "$to/usr/bin/$command"
done
