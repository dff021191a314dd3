#!/bin/busybox sh
# In the laboratory: boot systemd, have it run /in/inside, and look at what is left when it has ended.
# systemd itself comes as /in/systemd.tar, rondo's units as /in/units.tar.
set -e
tar -x -C / -f /in/systemd.tar
tar -x -C / -f /in/units.tar
mkdir -p /usr/local/bin /etc/systemd/system /dev/pts /dev/shm
for command in rondo-vmm rondo-store rondo-push rondo-query; do
	ln -s "/rondo/bin/$command" /usr/local/bin/
done
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755 run /run
touch /etc/machine-id /etc/fstab /etc/os-release
chmod 755 /

cat >/etc/systemd/system/test.target <<END
[Unit]
Requires=basic.target inside.service
After=basic.target
END
cat >/etc/systemd/system/inside.service <<END
[Unit]
After=basic.target
[Service]
Type=exec
ExecStart=/bin/sh -e /in/inside
ExecStopPost=systemctl exit --no-block
StandardOutput=file:/out/said
StandardError=file:/out/said
END

# systemd is the first process of a namespace. The first root of all cannot be left by services that enter
# one of their own; so it gets another, of the same files.
unshare --mount --pid --fork --propagation private /bin/sh -e <<END
mkdir /again
mount --rbind / /again
cd /again
mount --move . /
exec chroot . /bin/sh -e <<'INNER'
mount -t proc proc /proc
mount --make-rshared /
exec env -i container=lab PATH=/usr/local/bin:/usr/bin:/bin /lib/systemd/systemd \
	--system --unit=test.target --log-target=journal --show-status=no --crash-shell=no
INNER
END

journalctl --directory /run/log/journal --no-pager --output short-monotonic >/out/journal
rondo-query /var/lib/rondo/vmm_metrics list --format json --unix >/out/sessions
