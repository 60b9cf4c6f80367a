# A job that uses docker in its machine. What it prints is what the test knows.
#   $IMAGE       an image that a registry has
#   $REACHED     what may be reached, $REFUSED what may not
set -eu
say() { echo "$*"; }
daemons() { ls /proc/[0-9]*/exe -l 2>/dev/null | grep -c -e '/dockerd$' -e '/containerd$' || true; }

say "before: $(daemons) daemons, $(grep -c '^bridge ' /proc/modules || true) bridges, $(stat -c '%a %G' /run/docker.sock)"
say "as runner: API $(HOME=/home/runner chroot --userspec=runner --groups=docker / docker version --format '{{.Server.APIVersion}}')"
say "as others: $(HOME=/ chroot --userspec=nobody --groups= / docker version 2>&1 | grep -c 'permission denied')"
say "after: $(daemons) daemons, $(docker info --format '{{.Driver}} {{.CgroupVersion}} {{.CgroupDriver}}' 2>/dev/null)"
say "tried: $(tail -n 3 /var/log/docker.log)"
say "data: $(df --output=target /var/lib/docker | tail -n 1)"

# What GitHub's runner does of a workflow's services and container, in its order.
label=0a1b2c network=github_network_0a1b2c
docker ps --all --quiet --no-trunc --filter "label=$label"
docker network prune --force --filter "label=$label"
docker network create --label $label $network >/dev/null
docker pull --quiet "$IMAGE"
db=$(docker create --name db1 --label $label --network $network --network-alias db -p 8080:80 -p 81 \
	--health-cmd "service get http://127.0.0.1:80/" --health-interval 1s --health-retries 60 -e GITHUB_ACTIONS=true -e CI=true \
	"$IMAGE" service serve :80 database)
docker start "$db" >/dev/null
docker ps --all --filter id="$db" --filter status=running --no-trunc --format "{{.ID}} {{.Status}}" | cut -d' ' -f2
docker port "$db" | sort | sed 's/:::.*/:::/; s/0.0.0.0:[0-9]\{5\}/0.0.0.0:some/' | uniq
for i in $(seq 90); do
	health=$(docker inspect --format="{{if .Config.Healthcheck}}{{print .State.Health.Status}}{{end}}" "$db")
	test "$health" = starting || break
	sleep 1
done
say "health: $health"
mkdir -p /work/here && echo 'echo "step: $WORD in $PWD, $(service get http://db/)"' >/work/step.sh
job=$(docker create --name job1 --label $label --workdir /__w/here --network $network -e HOME=/github/home -e GITHUB_ACTIONS=true -e CI=true \
	-v "/var/run/docker.sock":"/var/run/docker.sock" -v "/work":"/__w" -v "/work/here":"/github/home":ro --entrypoint "tail" "$IMAGE" "-f" "/dev/null")
docker start "$job" >/dev/null
docker inspect --format "{{range .Config.Env}}{{println .}}{{end}}" "$job" | grep -c =
WORD=word docker exec -i --workdir /__w/here -e WORD "$job" sh -e /__w/step.sh
say "by port: $(./service get http://localhost:8080/)"
docker logs --details "$db"

say "in a container: $(docker exec "$job" escape look $NAMES)"
say "in the fence: $(docker exec "$job" escape dial $REACHED $REFUSED | sort | tr '\n' ',')"
say "of the default network: $(docker run --rm "$IMAGE" escape dial $REACHED $REFUSED | sort | tr '\n' ',')"
say "of the machine's: $(docker run --rm --privileged --network host "$IMAGE" escape dial $REACHED $REFUSED | sort | tr '\n' ',')"
say "without a network: $(docker run --rm --network none "$IMAGE" escape dial $REACHED $REFUSED | sort | tr '\n' ',')"
for name in db1 job1; do docker rm --force $name; done
docker network rm $network

docker volume create kept >/dev/null
docker run --rm -v kept:/kept "$IMAGE" sh -c 'echo kept > /kept/file'
printf 'FROM %s\nRUN echo built > /built && service get http://gateway.nimbus.internal:5000/v2/\nCMD ["cat", "/built", "/kept/file"]\n' "$IMAGE" >/work/Dockerfile
docker build --quiet --tag built /work >/dev/null
docker run --rm -v kept:/kept built
say "with a bound: $(docker run --rm --memory 24m "$IMAGE" sh -c 'x=$(head -c 64m /dev/zero | tr "\0" x); echo $?' >/dev/null 2>&1; echo $?)"
say "of processes: $(cat /sys/fs/cgroup/docker/pids.max)"

# Told to end, the job has its daemon to clean up with.
trap 'say "told to end: $(docker ps --quiet | wc -l) containers"; kill -KILL $(pgrep -x dockerd); sleep 1; say "again: $(docker ps --quiet --all | wc -l) containers"; exit 3' TERM
docker run --detach --name left "$IMAGE" sleep 1000 >/dev/null
say ready
while :; do sleep 0.2; done
