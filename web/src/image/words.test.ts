import { create } from "@bufbuild/protobuf";
import { describe, expect, it } from "vitest";

import { ImageSchema, RegistryRulesSchema } from "../gen/nimbus/v1/registry_pb";
import { ago, bytes, percent, pullCommand, pulled, referrerWords, ruleWords, shortDigest } from "./words";

describe("images in words", () => {
  it("says sizes and shares", () => {
    expect([0n, 1023n, 1536n, 300n << 20n, 5n << 40n].map(bytes)).toEqual(["0 B", "1023 B", "1.5 KiB", "300 MiB", "5.0 TiB"]);
    expect([percent(1n, 3n), percent(300n, 200n), percent(0n, 0n)]).toEqual([33, 150, 100]);
  });

  it("says what is known about an image, each kind once", () => {
    const of = (...types: string[]) => referrerWords(create(ImageSchema, { referrers: types.map((artifactType) => ({ artifactType })) }));
    expect(of()).toEqual([]);
    expect(of("application/spdx+json", "application/vnd.dev.cosign.artifact.sig.v1+json", "application/vnd.cncf.notary.signature")).toEqual([
      { word: "SBOM", types: "application/spdx+json" },
      { word: "2 × signature", types: "application/vnd.dev.cosign.artifact.sig.v1+json, application/vnd.cncf.notary.signature" },
    ]);
    expect(of("application/x-own", "")).toEqual([
      { word: "application/x-own", types: "application/x-own" },
      { word: "note", types: "" },
    ]);
  });

  it("says rules as sentences", () => {
    const of = (rules: Parameters<typeof create<typeof RegistryRulesSchema>>[1]) => ruleWords(create(RegistryRulesSchema, rules));
    expect(ruleWords(undefined)).toEqual([]);
    expect(of({})).toEqual([]);
    expect(of({ immutable: true, keepDays: 1, evict: true })).toEqual([
      "Tags do not change",
      "Unused images go after a day",
      "Images make room when the quota is nearly used",
    ]);
    expect(of({ pushFrom: ["octo/app"] })).toEqual(["Jobs of octo/app push to it, too"]);
    expect(of({ pushFrom: ["-", "octo/app"] })).toEqual(["The org's own jobs and those of octo/app push to it, too"]);
    expect(of({ pushFrom: ["*", "octo/app"] })).toEqual(["All jobs of the org push to it"]);
  });

  it("says what to type, which image it is, and when it was used", () => {
    expect(pullCommand("nimbus.example", "acme", "team/app", { tag: "v1" })).toBe("docker pull nimbus.example/acme/team/app:v1");
    expect(shortDigest(`sha256:${"0123456789abcdef".repeat(4)}`)).toBe("sha256:0123456789ab");
    const now = Date.UTC(2026, 0, 10);
    const minute = 60_000;
    expect([now, now - 59 * minute, now - 47 * 60 * minute, now - 48 * 60 * minute, now - 400 * 24 * 60 * minute].map((t) => ago(t, now))).toEqual([
      "just now", "59 min ago", "47 h ago", "2 days ago", "1.1 years ago",
    ]);
    expect([pulled(undefined, now), pulled(now - 5 * minute, now)]).toEqual(["never pulled", "pulled 5 min ago"]);
  });
});
