#!/bin/sh
# What greenboot's runner does, in short: required checks decide, wanted ones are told; then what follows a green boot
# or a red one. A red boot ends here, where greenboot would try again as often as GRUB's counter lets it.
colour=green
for check in /usr/lib/greenboot/check/required.d/*; do
  "$check" || colour=red
done
for check in /usr/lib/greenboot/check/wanted.d/*; do
  "$check" || echo "$check: failed, which is only told"
done
for step in /usr/lib/greenboot/$colour.d/*; do
  "$step" || echo "$step failed"
done
echo "this boot is $colour"
test $colour = green || systemctl --no-block reboot
