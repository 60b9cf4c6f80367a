import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { useRef, useState } from "react";

import { jobs as service, message } from "../api";
import { type Job, type JobEvent, JobState } from "../gen/nimbus/v1/job_pb";
import { placeWords } from "../job/place";
import { isFinished, mayRunAgain } from "../job/state";
import { millis } from "../job/timeline";
import { TimelineView } from "../job/timeline-view";
import { TraceView } from "../job/trace-view";
import { UsageView } from "../job/usage-view";
import { jobKey, useJob } from "../live";
import { type LogSearch, maxMeta } from "../log/orgsearch";
import { LogView } from "../log/view";
import { Shells } from "../shell/view";
import { Loading, Notice } from "../ui/notice";
import { useNow } from "../ui/now";
import { Question } from "../ui/question";
import { StandingMark } from "../ui/standing";

export function JobPage({ jobId }: { jobId: string }) {
  const { data: job, error } = useJob(jobId);
  if (!job) {
    return error ? (
      <Notice title="This job can't be shown">
        <p>{message(error)}</p>
        <p>
          <Link to="/">All jobs</Link>
        </p>
      </Notice>
    ) : (
      <Loading what="job" />
    );
  }
  // The sandbox outlives the job's end for a moment: the timeline goes on.
  const ongoing = !isFinished(job);
  return (
    <div className="flex flex-1 flex-col gap-4">
      <Head job={job} />
      <TimelineView timeline={job.timeline} running={ongoing} />
      <UsageView job={job} />
      <TraceView job={job} />
      <LogView key={job.id} jobId={job.id} />
      <Shells jobId={job.id} ongoing={ongoing || job.heldUntil !== undefined} />
      <Events jobId={job.id} />
    </div>
  );
}

function Head({ job }: { job: Job }) {
  const github = job.github;
  return (
    <div>
      <nav aria-label="Breadcrumb" className="text-sm text-quiet">
        <Link to="/">Jobs</Link> <span aria-hidden>/</span> {github ? `${github.owner}/${github.repo}` : "command"}
      </nav>
      <div className="mt-1 flex flex-wrap items-center gap-x-4 gap-y-2">
        <h1 className="min-w-0 text-xl font-semibold break-words">{job.name}</h1>
        <span role="status" data-testid="standing">
          <StandingMark job={job} />
        </span>
        {job.exitCode !== undefined && <span className="text-sm text-quiet">exit code {job.exitCode}</span>}
        <div className="ml-auto flex flex-wrap items-center justify-end gap-x-3 gap-y-2">
          {mayRunAgain(job) && <Rerun key={job.id} job={job} />}
          {!isFinished(job) && <Cancel job={job} />}
        </div>
      </div>
      {job.reason?.message && <p className={`mt-1 ${job.state === JobState.UNSCHEDULABLE ? "text-warn" : "text-quiet"}`}>{job.reason.message}</p>}
      {(job.state === JobState.PENDING || job.state === JobState.QUEUED) && <Place jobId={job.id} />}
      {job.heldUntil && <Held job={job} />}
      <dl className="mt-2 flex flex-wrap gap-x-5 gap-y-0.5 text-sm text-quiet">
        <Fact name="Runs in" value={[job.class?.executor, job.class?.image].filter(Boolean).join(" · ")} />
        <Fact name="Size" value={job.class ? `${job.class.cpus} CPU, ${job.class.memoryMib} MiB` : ""} />
        <Fact name="Attempt" value={job.attemptCount > 0 ? `${job.attemptCount}${job.attemptCount > 1 ? ` of at most ${job.maxAttempts}` : ""}` : ""} />
        <Fact name="Priority" value={job.priority === 0 ? "" : String(job.priority)} />
        <Fact name="Received" value={clock(millis(job.timeline?.receivedAt))} />
      </dl>
      <div className="mt-0.5 flex flex-wrap gap-x-5 gap-y-0.5 text-sm text-quiet">
        {job.rerunOf && (
          <Link to="/jobs/$jobId" params={{ jobId: job.rerunOf }}>
            Runs an earlier job again
          </Link>
        )}
        <Link to="/logs" search={alike(job)}>
          Search logs like this
        </Link>
        {github?.htmlUrl.startsWith("https://") && (
          <a href={github.htmlUrl} rel="noreferrer">
            At GitHub
          </a>
        )}
      </div>
    </div>
  );
}

/** How the logs of jobs like this one are searched: of its repository, or its metadata. */
function alike({ github, metadata }: Job): LogSearch {
  if (github) return { repo: `${github.owner}/${github.repo}` };
  const meta = Object.entries(metadata).map(([key, value]) => `${key}=${value}`);
  return meta.length > 0 ? { meta: meta.slice(0, maxMeta) } : {};
}

/** A sandbox that stays after its job has failed, for shells. */
function Held({ job }: { job: Job }) {
  const queries = useQueryClient();
  const release = useMutation({
    mutationFn: () => service.releaseJob({ jobId: job.id }),
    onSuccess: (answer) => queries.setQueryData(jobKey(job.id), answer.job),
  });
  return (
    <p className="mt-1 flex flex-wrap items-center gap-x-3 gap-y-1 text-warn" data-testid="held">
      <span>
        Its sandbox stays on its host until {clock(millis(job.heldUntil))}: <code>nimbus shell {job.id}</code>
      </span>
      <button
        type="button"
        disabled={release.isPending}
        onClick={() => release.mutate()}
        className="rounded border border-line px-2 py-0.5 text-sm text-ink hover:border-accent disabled:opacity-60"
      >
        {release.isPending ? "Giving it up…" : "Give it up"}
      </button>
      {release.error && (
        <span role="alert" className="text-bad">
          {message(release.error)}
        </span>
      )}
    </p>
  );
}

/** Where a waiting job stands. Others move it, so that it is asked for anew. */
function Place({ jobId }: { jobId: string }) {
  const { data } = useQuery({
    queryKey: ["place", jobId],
    queryFn: async ({ signal }) => (await service.getJob({ jobId }, { signal })).place ?? null,
    refetchInterval: 5000,
  });
  const now = useNow(true);
  return data ? (
    <p className="mt-1 text-quiet" data-testid="place">
      {placeWords(data, now)}
    </p>
  ) : null;
}

/**
 * Runs a job again: one of a command as a new job, one of GitHub's by asking
 * GitHub, and one that can't start by looking whether it can by now.
 */
function Rerun({ job }: { job: Job }) {
  const navigate = useNavigate();
  const queries = useQueryClient();
  const key = useRef(crypto.getRandomValues(new Uint32Array(4)).join("-"));
  const rerun = useMutation({
    mutationFn: () => service.rerunJob({ jobId: job.id, idempotencyKey: key.current }),
    onSuccess: (answer) => {
      if (!answer.job) return;
      if (answer.job.id !== job.id) void navigate({ to: "/jobs/$jobId", params: { jobId: answer.job.id } });
      else queries.setQueryData(jobKey(job.id), answer.job);
    },
  });
  if (rerun.isSuccess && isFinished(job)) {
    return (
      <span role="status" className="text-sm text-quiet">
        GitHub runs it again; the new job comes to the <Link to="/">list of jobs</Link>.
      </span>
    );
  }
  return (
    <>
      {rerun.error && (
        <span role="alert" className="order-last min-w-0 basis-full text-right text-sm break-words text-bad">
          {message(rerun.error)}
        </span>
      )}
      <button
        type="button"
        disabled={rerun.isPending}
        onClick={() => rerun.mutate()}
        className="rounded border border-line px-3 py-1 text-sm hover:border-accent disabled:opacity-60"
      >
        {rerun.isPending ? "Starting…" : "Run again"}
      </button>
    </>
  );
}

function Fact({ name, value }: { name: string; value: string }) {
  if (!value) return null;
  return (
    <div className="flex gap-1.5">
      <dt>{name}</dt>
      <dd className="text-ink">{value}</dd>
    </div>
  );
}

function clock(ms: number | undefined): string {
  return ms === undefined ? "" : new Date(ms).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}

function Cancel({ job }: { job: Job }) {
  const queries = useQueryClient();
  const [asked, setAsked] = useState(false);
  const cancel = useMutation({
    mutationFn: () => service.cancelJob({ jobId: job.id }),
    onSuccess: (answer) => {
      queries.setQueryData(jobKey(job.id), answer.job);
      setAsked(false);
    },
  });
  return (
    <>
      <button type="button" onClick={() => setAsked(true)} className="rounded border border-line px-3 py-1 text-sm hover:border-bad hover:text-bad">
        Cancel job
      </button>
      {asked && (
        <Question
          title="Cancel this job?"
          yes="Cancel job"
          doing="Cancelling…"
          pending={cancel.isPending}
          error={cancel.error ? message(cancel.error) : ""}
          onYes={() => cancel.mutate()}
          onEnd={() => setAsked(false)}
        >
          <p className="mt-2 text-quiet">Its processes get ten seconds to end, then its sandbox is destroyed. The log stays.</p>
        </Question>
      )}
    </>
  );
}

/** The job's history, for whoever wants to know why it went as it did. */
function Events({ jobId }: { jobId: string }) {
  const { data } = useQuery({
    queryKey: ["events", jobId],
    queryFn: async ({ signal }) => {
      const events: JobEvent[] = [];
      for (let pageToken = ""; ; ) {
        const page = await service.listJobEvents({ jobId, pageToken }, { signal });
        events.push(...page.events);
        if (!(pageToken = page.nextPageToken)) return events;
      }
    },
  });
  if (!data?.length) return null;
  return (
    <details className="rounded-lg border border-line bg-panel px-4 py-2 text-sm">
      <summary className="cursor-pointer font-semibold">History ({data.length})</summary>
      <ol className="mt-2 grid gap-1">
        {data.map((event) => (
          <li key={event.seq} className="grid grid-cols-[6.5rem_8rem_1fr] gap-x-3 max-sm:grid-cols-[6.5rem_1fr]">
            <time className="text-quiet tabular-nums">{new Date(millis(event.at) ?? 0).toISOString().slice(11, 23)}</time>
            <span className="font-medium">{event.kind.replaceAll("_", " ")}</span>
            <span className="min-w-0 break-words text-quiet max-sm:col-span-2">
              {[event.detail, event.actor].filter(Boolean).join(" · ")}
            </span>
          </li>
        ))}
      </ol>
    </details>
  );
}
