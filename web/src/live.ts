import { fromJson, type JsonValue } from "@bufbuild/protobuf";
import { type QueryClient, useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";

import { jobs as service } from "./api";
import { type Job, JobSchema } from "./gen/nimbus/v1/job_pb";

const jobsKey = ["jobs"];
export const jobKey = (id: string) => ["job", id];

/** How many jobs the list keeps; older ones are reached by the command line. */
const listed = 200;

/** The newest jobs, kept up to date by the server's stream. */
export function useJobs() {
  return useQuery({
    queryKey: jobsKey,
    queryFn: async ({ signal }) => (await service.listJobs({ pageSize: listed }, { signal })).jobs,
  });
}

export function useJob(id: string) {
  return useQuery({
    queryKey: jobKey(id),
    queryFn: async ({ signal }) => {
      const { job } = await service.getJob({ jobId: id }, { signal });
      if (!job) throw new Error("the server sent no job");
      return job;
    },
  });
}

/**
 * Follows the changes of all jobs of the org, into the queries' cache. One
 * stream per tab, owned by the shell. Returns whether it is connected.
 */
export function useJobChanges(signedIn: boolean): boolean {
  const queries = useQueryClient();
  const [live, setLive] = useState(false);
  useEffect(() => {
    if (!signedIn) return;
    const source = new EventSource("/api/v1/jobs/stream");
    source.addEventListener("open", () => {
      setLive(true);
      // What changed while the stream was away is fetched once.
      void queries.invalidateQueries();
    });
    source.addEventListener("error", () => setLive(false));
    source.addEventListener("job", (event: MessageEvent<string>) => {
      const job = fromJson(JobSchema, JSON.parse(event.data) as JsonValue, { ignoreUnknownFields: true });
      apply(queries, job);
    });
    return () => source.close();
  }, [queries, signedIn]);
  return live;
}

function apply(queries: QueryClient, job: Job): void {
  queries.setQueryData(jobKey(job.id), job);
  queries.setQueryData<Job[]>(jobsKey, (list) => (list ? merge(list, job) : list));
  void queries.invalidateQueries({ queryKey: ["events", job.id] });
}

/** The list with a job put in or replaced; ids sort by time, newest first. */
export function merge(list: readonly Job[], job: Job): Job[] {
  const i = list.findIndex((other) => other.id <= job.id);
  if (i >= 0 && list[i]?.id === job.id) return list.with(i, job);
  const out = list.slice();
  out.splice(i < 0 ? out.length : i, 0, job);
  return out.slice(0, listed);
}
