#!/bin/bash
# Boots this machine's own userland under systemd, in namespaces of its own, so
# that a test can install a service as an operator would.
#
#   boot.sh NAME ROOM BIND…
#
# The root is an overlay over /, whose changes are in memory at ROOM; each BIND
# is seen at its own path. Control groups called NAME take systemd's: the
# machine's own are out of its sight. Ends when systemd does.
set -euo pipefail
name=$1 room=$2
shift 2

mounts() { awk '$3 == "cgroup" || $3 == "cgroup2" { print $3, $2, $4 }' /proc/self/mounts; }

if [[ ${STAGE-} != inside ]]; then
	while read -r _ path _; do
		mkdir -p "$path/$name"
		for file in cpuset.cpus cpuset.mems; do
			[[ ! -e $path/$name/$file ]] || cat "$path/$file" >"$path/$name/$file" 2>/dev/null || true
		done
		echo $$ >"$path/$name/cgroup.procs"
	done < <(mounts)
	STAGE=inside exec unshare --cgroup --pid --mount --uts --ipc --net --fork --kill-child "$0" "$name" "$room" "$@"
fi

groups=$(mounts)
mount --make-rprivate /
mount -t tmpfs -o size=4g,mode=755 tmpfs "$room"
mkdir "$room"/{changes,work,root}
mount -t overlay -o "lowerdir=/,upperdir=$room/changes,workdir=$room/work" overlay "$room/root"
cd "$room/root"
mount -t proc proc proc
mount --rbind /dev dev
mount -t sysfs sysfs sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
for path; do
	mkdir -p ".$path"
	mount --bind "$path" ".$path"
done
if [[ $groups == cgroup2\ /sys/fs/cgroup\ * ]]; then
	mount -t cgroup2 cgroup2 sys/fs/cgroup
else
	mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
	while read -r type path options; do
		mkdir -p ".$path"
		options=$(tr , '\n' <<<"$options" | sed -E '/^(rw|ro|nosuid|nodev|noexec|relatime|xattr|nsdelegate|memory_recursiveprot|release_agent=.*)$/d' | paste -sd,)
		mount -t "$type" ${options:+-o "$options"} "$type" ".$path"
	done <<<"$groups"
fi

# Nothing of what this machine starts by itself.
find etc/systemd/system -name '*.wants' -prune -exec rm -r {} +
ln -sf /lib/systemd/system/basic.target etc/systemd/system/default.target
for unit in systemd-networkd systemd-resolved systemd-timesyncd systemd-logind systemd-udevd systemd-modules-load systemd-sysctl; do
	ln -sf /dev/null "etc/systemd/system/$unit.service"
done
hostname "$name"
ip link set lo up
mkdir -p old
pivot_root . old
umount --lazy /old
exec env -i container=nimbus PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --log-target=console --show-status=no
