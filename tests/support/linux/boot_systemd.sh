#!/bin/busybox sh
# In the laboratory: replace the first process by systemd, let it run /in/inside, and shut down after that; then
# collect the results.
# systemd comes as /in/systemd.tar, rondo's units as /in/units.tar.
set -e
tar -x -C / -f /in/systemd.tar
tar -x -C / -f /in/units.tar
mkdir -p /usr/local/bin /etc/systemd/system /dev/pts /dev/shm
for command in rondo-vmm rondo-attach rondo-store rondo-push rondo-query; do
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

# The last thing that a shutdown does.
cat >/lib/systemd/system-shutdown/finish <<END
#!/bin/sh
journalctl --directory /run/log/journal --no-pager --output short-monotonic >/out/journal
cp -r /var/lib/rondo/vmm_metrics /out
exec /init finish \$?
END
chmod 755 /lib/systemd/system-shutdown/finish

# Services cannot change their root from the initial root file system; so systemd gets another root with the same
# files.
cat >/lab/first <<END
mkdir /again
mount --rbind / /again
cd /again
mount --move . /
mount --make-rshared .
exec chroot . /bin/env -i container=lab PATH=/usr/local/bin:/usr/bin:/bin /lib/systemd/systemd \\
	--system --unit=test.target --log-target=journal --show-status=no --crash-shell=no
END
