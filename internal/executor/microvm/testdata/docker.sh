# A job that uses docker in its machine. What it prints is what the test knows.
#   $IMAGE              an image that a registry has
#   $REACHED, $REFUSED  what may be reached, and what may not
set -eu
say() { echo "$*"; }
daemons() { { pgrep -x dockerd; pgrep -x containerd; } | wc -l; }

say "before: $(daemons) daemons, $(grep -c '^bridge ' /proc/modules || true) bridges, $(stat -c '%a %G' /run/docker.sock)"
# What stands for GitHub's own runner is started as that is.
mkdir -p /opt/runner
printf '#!/bin/sh\necho "as $(id -un): API $(docker version --format {{.Server.APIVersion}})"\n' >/opt/runner/run.sh
chmod +x /opt/runner/run.sh
echo "official test" >/opt/runner/NIMBUS_RUNNER
ACTIONS_RUNNER_INPUT_JITCONFIG=bm90aGluZw== nimbus-runner
say "as others: $(HOME=/ chroot --userspec=nobody --groups= / docker version 2>&1 | grep -c 'permission denied')"
say "after: $(daemons) daemons, $(docker info --format '{{.Driver}} {{.CgroupVersion}} {{.CgroupDriver}}' 2>/dev/null)"
say "data: $(df --output=target /var/lib/docker | tail -n 1)"

# A workflow with a container and a service, by the sequence of GitHub's runner.
nimbus-runner >/dev/null && result=0 || result=$?
say "the workflow: $result, left: $(docker ps --all --quiet | wc -l) containers, $(docker network ls --quiet --filter name=github | wc -l) networks"

# And as people do.
docker run --detach --name db --publish 8080:80 "$IMAGE" >/dev/null
say "by port: $(./service get http://localhost:8080/)"
say "of the machine's network: $(docker run --rm --privileged --network host "$IMAGE" escape dial $REACHED $REFUSED | sort | tr '\n' ',')"
docker volume create kept >/dev/null
printf 'FROM %s\nVOLUME /kept\nRUN echo built > /built && service get http://gateway.nimbus.internal:5000/v2/\nCMD ["cat", "/built", "/kept/file"]\n' "$IMAGE" >Dockerfile
docker build --quiet --tag built . >/dev/null
docker run --rm --memory 24m --volume kept:/kept built sh -c 'echo kept > /kept/file; x=$(head -c 64m /dev/zero | tr "\0" x)' >/dev/null 2>&1 && bound=0 || bound=$?
say "built: $(docker run --rm --volume kept:/kept built | tr '\n' ' ')"
say "out of memory: $bound, of processes: $(cat /sys/fs/cgroup/docker/pids.max)"

# Told to end, it has its daemon to clean up with; one that is gone comes back.
end() {
	say "told to end: $(docker ps --quiet | wc -l) containers"
	pkill -KILL -x dockerd
	say "again: $(docker ps --quiet --all | wc -l) containers"
	echo '{' >/etc/docker/daemon.json
	pkill -KILL -x dockerd
	docker ps >/dev/null 2>&1 || say "without settings: none"
	exit 3
}
trap end TERM
say ready
while :; do sleep 0.2; done 2>/dev/null # in which the shell tells of its child
