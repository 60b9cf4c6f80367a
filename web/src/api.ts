import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";

import { CacheService } from "./gen/nimbus/v1/cache_pb";
import { HostService } from "./gen/nimbus/v1/host_pb";
import { JobService } from "./gen/nimbus/v1/job_pb";
import { LogService } from "./gen/nimbus/v1/log_pb";
import { RegistryService } from "./gen/nimbus/v1/registry_pb";
import { ShellService } from "./gen/nimbus/v1/shell_pb";
import { TelemetryService } from "./gen/nimbus/v1/telemetry_pb";

// Calls carry the session cookie; the server binds them to the caller's org.
// In binary what one side does not know is ignored by both, so that a page goes
// on with a server that is older or newer than it, as while replicas are
// replaced. Of JSON the server refuses what it does not know.
const transport = createConnectTransport({ baseUrl: window.location.origin, useHttpGet: true, useBinaryFormat: true });

export const jobs = createClient(JobService, transport);
export const logs = createClient(LogService, transport);
export const hosts = createClient(HostService, transport);
export const caches = createClient(CacheService, transport);
export const registry = createClient(RegistryService, transport);
export const shells = createClient(ShellService, transport);
export const telemetry = createClient(TelemetryService, transport);

/** Whether an error means that there is no session (any more). */
export function isSignedOut(error: unknown): boolean {
  return ConnectError.from(error).code === Code.Unauthenticated;
}

/** What a person reads of an error: what went wrong, and what to do. */
export function message(error: unknown): string {
  const { rawMessage, metadata } = ConnectError.from(error);
  const hint = decodeHint(metadata.get("Nimbus-Hint") ?? "");
  return hint ? `${rawMessage} (${hint})` : rawMessage;
}

/** A hint as the header has it: URL-encoded, a space as a plus. */
function decodeHint(encoded: string): string {
  try {
    return decodeURIComponent(encoded.replaceAll("+", " "));
  } catch {
    return ""; // not of ours
  }
}

/** Who is signed in, and what they are in the org that the session is bound to. */
export interface Me {
  role?: string;
  platform_admin: boolean;
}

export async function whoAmI(signal: AbortSignal): Promise<Me> {
  const answer = await fetch("/api/v1/me", { signal });
  if (!answer.ok) throw new Error(`who is signed in can't be told (${answer.status})`);
  return (await answer.json()) as Me;
}

/** Whether somebody may do what takes an operator of the org. */
export const mayOperate = (me: Me | undefined): boolean => me !== undefined && (me.platform_admin || me.role === "operator" || me.role === "admin");

export async function signOut(): Promise<void> {
  await fetch("/api/v1/logout", { method: "POST" });
  window.location.assign("/");
}
