import { create } from "@bufbuild/protobuf";
import { describe, expect, it } from "vitest";

import { ImageSchema, RegistryRulesSchema } from "../gen/nimbus/v1/registry_pb";
import { pullCommand, pulled, referrerWords, ruleWords, shortDigest } from "./words";

describe("images in words", () => {
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
    expect([pulled(undefined, now), pulled(now - 5 * minute, now)]).toEqual(["never pulled", "pulled 5 minutes ago"]);
  });
});
