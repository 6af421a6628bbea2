#!/bin/sh
# What greenboot's runner does, in short: required checks decide, wanted ones are told; then what follows a green boot
# or a red one. The count of tries, which greenboot keeps in grubenv for GRUB, is a file for the boot loader's stand-in.
tries=/var/boot_counter
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
if [ $colour = green ]; then
  rm -f $tries
elif [ -e $tries ]; then
  echo $(($(cat $tries) - 1)) > $tries
  systemctl --no-block reboot
fi
