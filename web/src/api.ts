import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";

import { HostService } from "./gen/nimbus/v1/host_pb";
import { JobService } from "./gen/nimbus/v1/job_pb";

// Calls carry the session cookie; the server binds them to the caller's org.
const transport = createConnectTransport({ baseUrl: window.location.origin, useHttpGet: true });

export const jobs = createClient(JobService, transport);
export const hosts = createClient(HostService, transport);

/** Whether an error means that there is no session (any more). */
export function isSignedOut(error: unknown): boolean {
  return ConnectError.from(error).code === Code.Unauthenticated;
}

/** What a person reads of an error. */
export function message(error: unknown): string {
  return ConnectError.from(error).rawMessage;
}

export async function signOut(): Promise<void> {
  await fetch("/api/v1/logout", { method: "POST" });
  window.location.assign("/");
}
