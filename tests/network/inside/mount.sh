#!/bin/sh
# mount.sh KIND MACHINE: has /mnt on MACHINE lead to the share of that kind
set -e
while mountpoint -q /mnt; do umount -f /mnt 2>/dev/null || umount -l /mnt; done
case $1 in
  ext4) exec mount --bind /data/ext4 /mnt ;;
  smb*) type=cifs from=//10.0.1$2.1/share options=guest,vers=3.1.1 ;;
  nfs*) type=nfs from=10.0.1$2.1:/data/nfs ;;
esac
case $1 in
  nfs42*) options=vers=4.2 ;;
  nfs40*) options=vers=4.0 ;;
  nfs3*) options=vers=3 ;;
esac
case $1 in *-*) options=$options,${1#*-} ;; esac
exec mount -t $type -o "$options" $from /mnt
