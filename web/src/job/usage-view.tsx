import { useQuery } from "@tanstack/react-query";

import { jobs as service } from "../api";
import type { Job } from "../gen/nimbus/v1/job_pb";
import { isFinished } from "./state";
import { duration } from "./timeline";
import { type Chart, ceiling, charts, path, summary } from "./usage";

const look = [
  { stroke: "stroke-accent", dot: "bg-accent" },
  { stroke: "stroke-busy", dot: "bg-busy" },
];

/** How often a job that runs is looked at: its host tells as often. */
const interval = 5000;

/** What a job uses of its host, as small charts. */
export function UsageView({ job }: { job: Job }) {
  const over = isFinished(job);
  const { data } = useQuery({
    queryKey: ["usage", job.id, job.attemptId, over],
    queryFn: ({ signal }) => service.getUsage({ jobId: job.id, attemptId: job.attemptId }, { signal }),
    enabled: job.attemptId !== "",
    refetchInterval: over ? false : interval,
    placeholderData: (before) => before,
  });
  const all = charts(data?.series, job.class?.cpus ?? 0, job.class?.memoryMib ?? 0);
  if (all.length === 0) return null;
  return (
    <section aria-label="What it uses" data-testid="usage" className="rounded-lg border border-line bg-panel p-4">
      <div className="grid grid-cols-2 gap-x-5 gap-y-3 lg:grid-cols-[repeat(auto-fit,minmax(14rem,1fr))]">
        {all.map((chart) => (
          <Small key={chart.name} chart={chart} />
        ))}
      </div>
    </section>
  );
}

const width = 300;
const height = 48;

function Small({ chart }: { chart: Chart }) {
  const most = ceiling(chart);
  const lasted = (chart.at.at(-1) ?? 0) - (chart.at[0] ?? 0);
  return (
    <figure className="min-w-0">
      <figcaption className="flex flex-wrap items-baseline justify-between gap-x-3 text-sm">
        <span className="font-semibold">{chart.name}</span>
        {chart.lines.length > 1 && (
          <span className="flex gap-x-3 text-quiet">
            {chart.lines.map((l, i) => (
              <span key={l.name} className="flex items-center gap-1.5">
                <span aria-hidden className={`size-2 rounded-sm ${look[i]?.dot}`} />
                {l.name}
              </span>
            ))}
          </span>
        )}
      </figcaption>
      <svg
        role="img"
        aria-label={`${chart.name} over ${duration(1000 * lasted)}: ${summary(chart)}`}
        viewBox={`0 0 ${width} ${height}`}
        preserveAspectRatio="none"
        className="mt-1 h-12 w-full overflow-visible rounded-sm border-b border-line bg-hover"
      >
        {chart.lines.map((l, i) => (
          <path
            key={l.name}
            d={path(chart.at, l.values, most, width, height)}
            fill="none"
            strokeWidth={1.5}
            strokeLinejoin="round"
            vectorEffect="non-scaling-stroke"
            className={look[i]?.stroke}
          />
        ))}
      </svg>
      <p aria-hidden className="mt-1 text-sm break-words text-quiet tabular-nums">
        {summary(chart)}
      </p>
    </figure>
  );
}
