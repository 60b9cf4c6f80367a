import { useQuery } from "@tanstack/react-query";

import { hosts, message } from "../api";
import type { Host, RunnerStanding } from "../gen/nimbus/v1/host_pb";
import { runnerWords } from "../host/runner";
import { Command, Loading, Notice } from "../ui/notice";
import { useNow } from "../ui/now";

export function HostsPage() {
  const { data, error, isPending } = useQuery({
    queryKey: ["hosts"],
    queryFn: ({ signal }) => allHosts(signal),
    refetchInterval: 5_000,
  });
  return (
    <>
      <h1 className="mb-4 text-xl font-semibold">Hosts</h1>
      {isPending ? (
        <Loading what="hosts" />
      ) : error && !data ? (
        <Notice title="The hosts can't be read">
          <p>{message(error)}</p>
        </Notice>
      ) : data.length === 0 ? (
        <Notice title="No host has joined">
          <p>
            <Command>nimbus hosts token</Command> makes a token for one machine.
          </p>
        </Notice>
      ) : (
        <ul className="grid gap-4">
          {data.map((host) => (
            <HostCard key={host.id} host={host} />
          ))}
        </ul>
      )}
    </>
  );
}

/** Every host, by name: there are pages where there are many. */
async function allHosts(signal: AbortSignal): Promise<Host[]> {
  const all: Host[] = [];
  for (let pageToken = ""; ; ) {
    const page = await hosts.listHosts({ pageSize: 200, pageToken }, { signal });
    all.push(...page.hosts);
    pageToken = page.nextPageToken;
    if (!pageToken) return all.sort((a, b) => a.name.localeCompare(b.name) || a.id.localeCompare(b.id));
  }
}

/** What is to know of a runner's age, in time to do something about it. */
function RunnerNote({ standing }: { standing: RunnerStanding | undefined }) {
  const { text, tone } = runnerWords(standing, useNow(true));
  return text && <span className={tone === "quiet" ? "" : `block ${tone === "bad" ? "text-bad" : "text-warn"}`}>{text}</span>;
}

function HostCard({ host }: { host: Host }) {
  const ready = host.state === "ready";
  const has = host.inventory;
  return (
    <li className="rounded-lg border border-line bg-panel p-4">
      <div className="flex flex-wrap items-baseline gap-x-3 gap-y-1">
        <h2 className="font-semibold">{host.name}</h2>
        <span className={ready ? "text-good" : "text-warn"}>{ready ? "Ready" : "Away"}</span>
        <span className="text-sm text-quiet">
          {has?.cpus} CPUs · {((has?.memoryMib ?? 0) / 1024).toFixed(1)} GiB · {has?.arch} · agent {host.version} ·{" "}
          {host.running === 1 ? "1 job" : `${host.running} jobs`}
        </span>
      </div>
      {ready && host.free?.load?.closed && (
        <p className="mt-1 text-sm break-words text-warn">Asks for no jobs for now: {host.free.load.why || host.free.load.closed}</p>
      )}
      <ul className="mt-3 grid gap-2 text-sm">
        {has?.executors.map((executor) => (
          <li key={executor.name} className="grid grid-cols-[6rem_1fr] gap-x-3">
            <span className={executor.available ? "text-good" : "text-warn"}>
              {executor.available ? "✓" : "–"} {executor.name}
              <span className="sr-only">{executor.available ? " is available" : " is not available"}</span>
            </span>
            <span className="min-w-0 break-words text-quiet">
              {executor.detail}
              {executor.hint && <span className="block text-ink">{executor.hint}</span>}
            </span>
          </li>
        ))}
        {has?.runnerVersion && (
          <li className="grid grid-cols-[6rem_1fr] gap-x-3">
            <span className="text-quiet">Runner</span>
            <span className="min-w-0 break-words text-quiet">
              GitHub's {has.runnerVersion}
              <RunnerNote standing={host.runner} />
            </span>
          </li>
        )}
      </ul>
    </li>
  );
}
