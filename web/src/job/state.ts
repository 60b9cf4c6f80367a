import { type Job, JobResult, JobState } from "../gen/nimbus/v1/job_pb";

/** Tone decides colour and shape of a mark; never colour alone. */
export type Tone = "good" | "bad" | "warn" | "busy" | "quiet";

export interface Standing {
  word: string;
  tone: Tone;
}

const states: Record<JobState, Standing> = {
  [JobState.UNSPECIFIED]: { word: "Unknown", tone: "quiet" },
  [JobState.PENDING]: { word: "Waiting", tone: "quiet" },
  [JobState.QUEUED]: { word: "Queued", tone: "quiet" },
  [JobState.OFFERED]: { word: "Starting", tone: "busy" },
  [JobState.ACCEPTED]: { word: "Starting", tone: "busy" },
  [JobState.RUNNING]: { word: "Running", tone: "busy" },
  [JobState.FINISHED]: { word: "Finished", tone: "quiet" },
  [JobState.UNSCHEDULABLE]: { word: "Can't start", tone: "warn" },
};

const results: Record<JobResult, Standing> = {
  [JobResult.UNSPECIFIED]: { word: "Finished", tone: "quiet" },
  [JobResult.SUCCESS]: { word: "Passed", tone: "good" },
  [JobResult.FAILURE]: { word: "Failed", tone: "bad" },
  [JobResult.CANCELLED]: { word: "Cancelled", tone: "quiet" },
  [JobResult.TIMED_OUT]: { word: "Timed out", tone: "bad" },
  [JobResult.LOST]: { word: "Lost", tone: "warn" },
};

/** Where a job stands, in one word. */
export function standing(job: Job): Standing {
  return job.state === JobState.FINISHED ? results[job.result] : states[job.state];
}

export function isFinished(job: Job): boolean {
  return job.state === JobState.FINISHED;
}

/** Whether running it again means something: it is over, or can't start as it is. */
export function mayRunAgain(job: Job): boolean {
  return isFinished(job) || job.state === JobState.UNSCHEDULABLE;
}
