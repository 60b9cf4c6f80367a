import type { Image, RegistryRules } from "../gen/nimbus/v1/registry_pb";
import { ago } from "../ui/words";

/** What says something about an image, in a word. The media type is what nobody else calls anything. */
export function referrerWord(artifactType: string): string {
  const known: [RegExp, string][] = [
    [/spdx|cyclonedx|syft/i, "SBOM"],
    [/cosign|sigstore|notary|signature/i, "signature"],
    [/in-toto|attestation|provenance/i, "attestation"],
    [/sarif|vulnerabilit|trivy/i, "scan"],
  ];
  return known.find(([type]) => type.test(artifactType))?.[1] ?? (artifactType || "note");
}

/** What is said about an image, each kind once: "2 signatures", "SBOM". */
export function referrerWords(image: Image): { word: string; types: string }[] {
  const kinds = new Map<string, string[]>();
  for (const r of image.referrers) {
    const word = referrerWord(r.artifactType);
    kinds.set(word, [...(kinds.get(word) ?? []), r.artifactType]);
  }
  return [...kinds].map(([word, types]) => ({
    word: types.length === 1 ? word : `${types.length} × ${word}`,
    types: [...new Set(types)].join(", "),
  }));
}

/** The rules of a repository, as sentences. */
export function ruleWords(rules: RegistryRules | undefined): string[] {
  if (!rules) return [];
  const words: string[] = [];
  if (rules.immutable) words.push("Tags do not change");
  if (rules.keepDays > 0) words.push(`Unused images go after ${rules.keepDays === 1 ? "a day" : `${rules.keepDays} days`}`);
  if (rules.evict) words.push("Images make room when the quota is nearly used");
  if (rules.pushFrom.length > 0) words.push(pushers(rules.pushFrom));
  return words;
}

function pushers(from: string[]): string {
  if (from.includes("*")) return "All jobs of the org push to it";
  const repos = from.filter((f) => f !== "-").join(", ");
  if (!from.includes("-")) return `Jobs of ${repos} push to it, too`;
  return repos ? `The org's own jobs and those of ${repos} push to it, too` : "The org's own jobs push to it, too";
}

/** What is typed to have an image. */
export function pullCommand(host: string, org: string, repo: string, image: Pick<Image, "tag">): string {
  return `docker pull ${host}/${org}/${repo}:${image.tag}`;
}

/** The beginning of a digest, which is enough to tell two apart. */
export function shortDigest(digest: string): string {
  const [algorithm, sum = ""] = digest.split(":", 2);
  return `${algorithm}:${sum.slice(0, 12)}`;
}

/** When something was pulled last. */
export function pulled(then: number | undefined, now: number): string {
  return then === undefined ? "never pulled" : `pulled ${ago(then, now)}`;
}
