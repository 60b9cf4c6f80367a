import { create, toBinary } from "@bufbuild/protobuf";
import { ConnectError } from "@connectrpc/connect";
import { afterEach, beforeAll, describe, expect, it, vi } from "vitest";

import { HostSchema, ListHostsResponseSchema } from "./gen/nimbus/v1/host_pb";

let api: typeof import("./api");

/** What the server answers to the next call, and what it was asked. */
function answer(body: Uint8Array | string, status: number, headers: Record<string, string>): { asked: URL[] } {
  const asked: URL[] = [];
  vi.stubGlobal("fetch", (url: string | URL) => {
    asked.push(new URL(url));
    return Promise.resolve(new Response(body as BodyInit, { status, headers }));
  });
  return { asked };
}

beforeAll(async () => {
  vi.stubGlobal("window", { location: { origin: "https://nimbus.example.com" } });
  api = await import("./api");
});

afterEach(() => {
  vi.unstubAllGlobals();
});

describe("a server that is newer than the page", () => {
  it("may send fields that the page does not know", async () => {
    const known = toBinary(ListHostsResponseSchema, create(ListHostsResponseSchema, { hosts: [create(HostSchema, { name: "rack-7" })] }));
    const field1000 = [0xc0, 0x3e, 0x01]; // a varint of a later version
    const { asked } = answer(new Uint8Array([...known, ...field1000]), 200, { "Content-Type": "application/proto" });
    const { hosts } = await api.hosts.listHosts({});
    expect(hosts.map((h) => h.name)).toEqual(["rack-7"]);
    // JSON would be refused by an older server, field by field.
    expect(asked[0]?.searchParams.get("encoding")).toBe("proto");
  });
});

describe("what a person reads of an error", () => {
  const refused = async (headers: Record<string, string>): Promise<unknown> => {
    answer(JSON.stringify({ code: "not_found", message: "there is no such host" }), 404, { "Content-Type": "application/json", ...headers });
    return api.hosts.listHosts({}).then(
      () => new Error("it was answered"),
      (error: unknown) => error,
    );
  };

  it("has the hint", async () => {
    const error = await refused({ "Nimbus-Hint": "%60nimbus+hosts%60+lists+them%3A+100%25" });
    expect(api.message(error)).toBe("there is no such host (`nimbus hosts` lists them: 100%)");
  });

  it("goes without one", async () => {
    expect(api.message(await refused({}))).toBe("there is no such host");
    expect(api.message(await refused({ "Nimbus-Hint": "%" }))).toBe("there is no such host");
    expect(api.message(new ConnectError("gone"))).toBe("gone");
    expect(api.message("anything")).toBe("anything");
  });
});
