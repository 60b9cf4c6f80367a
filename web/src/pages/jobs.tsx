import { Link, useNavigate } from "@tanstack/react-router";
import { type KeyboardEvent, useRef } from "react";

import { message } from "../api";
import { type Job, JobResult, JobState } from "../gen/nimbus/v1/job_pb";
import { isFinished } from "../job/state";
import { duration, millis } from "../job/timeline";
import { useJobs } from "../live";
import { Command, Loading, Notice } from "../ui/notice";
import { useNow } from "../ui/now";
import { StandingMark } from "../ui/standing";

type Show = "active" | "failed" | undefined;

const filters: { show: Show; word: string; keeps: (job: Job) => boolean }[] = [
  { show: undefined, word: "All", keeps: () => true },
  { show: "active", word: "Active", keeps: (job) => !isFinished(job) },
  {
    show: "failed",
    word: "Failed",
    keeps: (job) => isFinished(job) && job.result !== JobResult.SUCCESS && job.result !== JobResult.CANCELLED,
  },
];

export function JobsPage({ show }: { show: Show }) {
  const { data, error, isPending } = useJobs();
  const keeps = filters.find((f) => f.show === show)?.keeps ?? (() => true);
  const kept = data?.filter(keeps) ?? [];
  return (
    <>
      <div className="mb-4 flex flex-wrap items-center gap-x-6 gap-y-2">
        <h1 className="text-xl font-semibold">Jobs</h1>
        <nav aria-label="Filter" className="flex gap-1 text-sm">
          {filters.map((f) => (
            <Link
              key={f.word}
              to="/"
              search={f.show ? { show: f.show } : {}}
              aria-current={f.show === show ? "true" : undefined}
              className="rounded-full border border-line px-3 py-1 text-quiet no-underline hover:bg-hover aria-[current=true]:border-accent aria-[current=true]:text-ink"
            >
              {f.word}
              {data && <span className="ml-1.5 tabular-nums">{data.filter(f.keeps).length}</span>}
            </Link>
          ))}
        </nav>
      </div>
      {isPending ? (
        <Loading what="jobs" />
      ) : error && !data ? (
        <Notice title="The jobs can't be read">
          <p>{message(error)}</p>
        </Notice>
      ) : kept.length === 0 ? (
        <Empty any={data.length > 0} />
      ) : (
        <JobList jobs={kept} />
      )}
    </>
  );
}

function Empty({ any }: { any: boolean }) {
  if (any) return <Notice title="No job matches this filter" />;
  return (
    <Notice title="No jobs yet">
      <p>
        Write <Command>runs-on: [nimbus]</Command> in a workflow, or try one now:
      </p>
      <p>
        <Command>nimbus run -- echo hello</Command>
      </p>
    </Notice>
  );
}

/** The list. j and k (or the arrows) move, Enter opens. */
function JobList({ jobs }: { jobs: Job[] }) {
  const navigate = useNavigate();
  const list = useRef<HTMLUListElement>(null);
  const now = useNow(jobs.some((job) => !isFinished(job)));

  const move = (event: KeyboardEvent) => {
    const step = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[event.key];
    if (!step || event.metaKey || event.ctrlKey) return;
    const links = [...(list.current?.querySelectorAll<HTMLAnchorElement>("a[data-job]") ?? [])];
    const at = links.findIndex((link) => link === document.activeElement);
    links[Math.min(Math.max(at + step, 0), links.length - 1)]?.focus();
    event.preventDefault();
  };

  return (
    // The keys are a short cut; every row is a link of its own.
    // eslint-disable-next-line jsx-a11y/no-noninteractive-element-interactions
    <ul ref={list} onKeyDown={move} className="divide-y divide-line overflow-hidden rounded-lg border border-line bg-panel" aria-label="Jobs, newest first">
      {jobs.map((job) => (
        <li key={job.id}>
          <Link
            data-job={job.id}
            to="/jobs/$jobId"
            params={{ jobId: job.id }}
            onKeyDown={(event) => {
              if (event.key === "o") void navigate({ to: "/jobs/$jobId", params: { jobId: job.id } });
            }}
            className="grid grid-cols-[7.5rem_1fr_auto] items-baseline gap-x-3 px-4 py-2.5 no-underline hover:bg-hover focus-visible:-outline-offset-2 max-sm:grid-cols-[1fr_auto] max-sm:gap-y-0.5"
          >
            <StandingMark job={job} />
            <span className="min-w-0 max-sm:order-last max-sm:col-span-2">
              <span className="block truncate font-medium">{job.name}</span>
              <span className="block truncate text-sm text-quiet">{origin(job)}</span>
            </span>
            <span className="text-right text-sm text-quiet tabular-nums">{took(job, now)}</span>
          </Link>
        </li>
      ))}
    </ul>
  );
}

function origin(job: Job): string {
  if (job.state === JobState.UNSCHEDULABLE || job.state === JobState.PENDING) {
    if (job.reason?.message) return job.reason.message;
  }
  if (!job.github) return `command · ${job.class?.executor ?? ""}`;
  const { owner, repo, workflowName, headBranch } = job.github;
  return [`${owner}/${repo}`, workflowName, headBranch].filter(Boolean).join(" · ");
}

function took(job: Job, now: number): string {
  const from = millis(job.timeline?.receivedAt);
  if (from === undefined) return "";
  return duration(Math.max(0, (millis(job.timeline?.finishedAt) ?? now) - from));
}
