#!/bin/sh
# Server and machines, then the agent.  What nothing is said about is as Debian has it.
cd /lab/inside
hostname server; ip link set lo up
# lockd lets nobody lock, also through NFS 4, until clients have had this long to claim their locks again.
modprobe lockd nlm_timeout=3 nlm_grace_period=3
for module in virtio_net nfsd nfs nfsv3 nfsv4 cifs veth; do modprobe $module; done
until nic=$(ls /sys/class/net | grep -m 1 ^e); do sleep 0.1; done
ip addr add 10.0.2.15/24 dev "$nic"; ip link set "$nic" up
mkdir -p /data /acknowledged; mount /dev/vdc /data; mount -t tmpfs tmpfs /acknowledged
mkdir -p /data/nfs /data/smb /data/ext4; chmod 777 /data/*

mkdir -p /var/lib/nfs/sm /var/lib/nfs/v4recovery /var/lib/nfs/nfsdcld /run/rpc_pipefs
mount -t nfsd nfsd /proc/fs/nfsd; mount -t rpc_pipefs sunrpc /run/rpc_pipefs
rpcbind -w; rpc.statd --no-notify; nfsdcld
echo '/data/nfs *(rw,sync,no_subtree_check,no_root_squash)' >/etc/exports; exportfs -ra
echo 10 >/proc/fs/nfsd/nfsv4leasetime; echo 10 >/proc/fs/nfsd/nfsv4gracetime
rpc.nfsd 8; rpc.mountd; echo Y >/proc/fs/nfsd/v4_end_grace
cat >/etc/samba/smb.conf <<-END
	[global]
	map to guest = Bad User
	guest account = root
	[share]
	path = /data/smb
	guest ok = yes
	read only = no
	force user = root
END
mkdir -p /run/samba /var/log/samba; smbd -D

for i in 1 2; do
  unshare --net --uts --mount --propagation private sleep infinity & machine=$!
  echo $machine >/machine$i
  until [ "$(readlink /proc/$machine/ns/mnt)" != "$(readlink /proc/$$/ns/mnt)" ]; do sleep 0.05; done
  ip link add to$i type veth peer name eth0 netns $machine
  ip addr add 10.0.1$i.1/24 dev to$i; ip link set to$i up
  nsenter -t $machine -n -u -m sh -c "
    hostname machine$i; ip link set lo up; ip addr add 10.0.1$i.2/24 dev eth0; ip link set eth0 up
    mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /var/lib/nfs; mkdir /var/lib/nfs/sm; touch /var/lib/nfs/state
    mount -t sysfs sys /sys; echo machine$i >/sys/fs/nfs/net/nfs_client/identifier
    rpcbind -w; rpc.statd --no-notify"
done
echo 10 >/proc/sys/fs/nfs/nlm_timeout  # as it was; also the time from now on, after a restart
exec python3 agent.py
