import { useInfiniteQuery, useMutation, useQueryClient } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { type ReactNode, useState } from "react";

import { message, registry } from "../api";
import type { Image, RegistryRepo } from "../gen/nimbus/v1/registry_pb";
import { pullCommand, pulled, referrerWord, referrerWords, ruleWords, shortDigest } from "../image/words";
import { millis } from "../job/timeline";
import { Copyable } from "../ui/copy";
import { Loading, Notice } from "../ui/notice";
import { useNow } from "../ui/now";
import { Question } from "../ui/question";
import { bytes } from "../ui/words";

const imagesKey = (repo: string) => ["images", repo];

/** A repository of images: its tags, and what each stands for. */
export function RepositoryPage({ repo }: { repo: string }) {
  const { data, error, isPending, hasNextPage, isFetchingNextPage, fetchNextPage } = useInfiniteQuery({
    queryKey: imagesKey(repo),
    queryFn: ({ signal, pageParam }) => registry.listImages({ repo, pageSize: 100, pageToken: pageParam }, { signal }),
    initialPageParam: "",
    getNextPageParam: (page) => page.nextPageToken || undefined,
    refetchInterval: 30_000,
  });
  if (isPending) return <Loading what="images" />;
  const first = data?.pages[0];
  if (!first) {
    return (
      <Notice title="The repository can't be read">
        <p>{message(error)}</p>
        <p>
          <Link to="/registry">All repositories</Link>
        </p>
      </Notice>
    );
  }
  const images = data.pages.flatMap((page) => page.images);
  return (
    <div className="grid gap-4">
      <Head repo={first.repo} org={first.org} />
      {images.length === 0 ? (
        <Notice title="No tags">
          <p>What is pushed with a tag is shown here.</p>
          <Copyable label="the push" text={`docker push ${window.location.host}/${first.org}/${repo}:v1`} />
        </Notice>
      ) : (
        <ul aria-label="Tags" className="divide-y divide-line overflow-hidden rounded-lg border border-line bg-panel">
          {images.map((image) => (
            <ImageRow key={image.tag} image={image} org={first.org} repo={repo} mayRemove={first.mayRemove} stays={first.repo?.rules?.immutable ?? false} />
          ))}
        </ul>
      )}
      {hasNextPage && (
        <button
          type="button"
          disabled={isFetchingNextPage}
          onClick={() => void fetchNextPage()}
          className="justify-self-center rounded border border-line bg-panel px-4 py-1.5 hover:border-accent disabled:opacity-60"
        >
          Show more tags
        </button>
      )}
    </div>
  );
}

function Head({ repo, org }: { repo: RegistryRepo | undefined; org: string }) {
  const now = useNow(false);
  if (!repo) return null;
  const rules = ruleWords(repo.rules);
  return (
    <div>
      <nav aria-label="Breadcrumb" className="text-sm text-quiet">
        <Link to="/registry">Registry</Link> <span aria-hidden>/</span> {org}
      </nav>
      <h1 className="mt-1 text-xl font-semibold break-words">{repo.name}</h1>
      <p className="mt-1 text-sm text-quiet">
        {bytes(repo.bytes)} · {repo.tags === 1n ? "1 tag" : `${repo.tags} tags`} · {repo.manifests === 1n ? "1 manifest" : `${repo.manifests} manifests`} ·{" "}
        {pulled(millis(repo.pulledAt), now)}
      </p>
      {rules.length > 0 && (
        <ul aria-label="Rules" className="mt-2 flex flex-wrap gap-2 text-sm">
          {rules.map((rule) => (
            <li key={rule} className="rounded-lg border border-line bg-panel px-3 py-0.5 break-words">
              {rule}
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}

interface ImageRowProps {
  image: Image;
  org: string;
  repo: string;
  mayRemove: boolean;
  /** By the repository's rules its tags do not change. */
  stays: boolean;
}

function ImageRow({ image, org, repo, mayRemove, stays }: ImageRowProps) {
  const now = useNow(false);
  const about = referrerWords(image);
  const host = window.location.host;
  return (
    <li>
      <details className="group">
        <summary className="grid cursor-pointer grid-cols-[auto_1fr_auto] items-baseline gap-x-3 gap-y-0.5 px-4 py-2.5 hover:bg-hover focus-visible:-outline-offset-2">
          <span aria-hidden className="text-quiet transition-transform group-open:rotate-90">
            ▸
          </span>
          <span className="flex min-w-0 flex-wrap items-baseline gap-x-3 gap-y-1">
            <span className="min-w-0 font-medium break-all">{image.tag}</span>
            <span className="font-mono text-[13px] text-quiet">{shortDigest(image.digest)}</span>
            {about.map(({ word, types }) => (
              <span key={word} title={types} className="min-w-0 rounded border border-line px-1.5 text-sm break-all text-good">
                {word}
              </span>
            ))}
          </span>
          <span className="text-right tabular-nums">{bytes(image.bytes)}</span>
          <span className="col-start-2 min-w-0 text-sm break-words text-quiet">{platforms(image)}</span>
          <span className="text-right text-sm whitespace-nowrap text-quiet">{pulled(millis(image.pulledAt), now)}</span>
        </summary>
        <div className="grid gap-3 border-t border-line bg-log px-4 py-3 text-sm">
          <Copyable label={`the command that pulls ${image.tag}`} text={pullCommand(host, org, repo, image)} />
          <dl className="grid gap-1.5">
            <Fact name="Digest" value={<span className="font-mono text-[13px] break-all">{image.digest}</span>} />
            <Fact name="Kind" value={<span className="break-all">{image.mediaType}</span>} />
            <Fact name="Pushed" value={when(millis(image.pushedAt))} />
            <Fact name="Pulled" value={when(millis(image.pulledAt))} />
          </dl>
          <About image={image} />
          {mayRemove && (stays ? <p className="text-quiet">Tags of this repository do not change, and so none is deleted.</p> : <Remove image={image} repo={repo} />)}
        </div>
      </details>
    </li>
  );
}

const platformsShown = 4;

function platforms(image: Image): string {
  const more = image.platforms.length - platformsShown;
  const shown = image.platforms.slice(0, platformsShown).join(", ");
  return more > 0 ? `${shown} and ${more} more` : shown || "no platform told";
}

function when(ms: number | undefined): string {
  return ms === undefined ? "never" : new Date(ms).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

function Fact({ name, value }: { name: string; value: ReactNode }) {
  return (
    <div className="grid grid-cols-[4.5rem_1fr] gap-x-3">
      <dt className="text-quiet">{name}</dt>
      <dd className="min-w-0">{value}</dd>
    </div>
  );
}

/** What was said about the image: SBOMs, signatures and their like. */
function About({ image }: { image: Image }) {
  if (image.referrers.length === 0) return <p className="text-quiet">Nothing is said about it: no signature, no SBOM.</p>;
  return (
    <section aria-label={`About ${image.tag}`}>
      <h2 className="font-semibold">About it</h2>
      <ul className="mt-1 grid gap-1">
        {image.referrers.map((r) => (
          <li key={r.digest} className="flex min-w-0 flex-wrap gap-x-3">
            <span className="text-good">{referrerWord(r.artifactType)}</span>
            <span className="min-w-0 break-all text-quiet">{r.artifactType}</span>
            <span className="font-mono text-[13px] text-quiet">{shortDigest(r.digest)}</span>
            <span className="text-quiet">{bytes(r.bytes)}</span>
          </li>
        ))}
      </ul>
    </section>
  );
}

function Remove({ image, repo }: { image: Image; repo: string }) {
  const queries = useQueryClient();
  const [asked, setAsked] = useState(false);
  const remove = useMutation({
    mutationFn: () => registry.removeImages({ repo, reference: image.tag }),
    onSuccess: async () => {
      setAsked(false);
      await queries.invalidateQueries({ queryKey: imagesKey(repo) });
      await queries.invalidateQueries({ queryKey: ["registry"] });
    },
  });
  return (
    <>
      <button type="button" onClick={() => setAsked(true)} className="justify-self-start rounded border border-line px-3 py-1 hover:border-bad hover:text-bad">
        Delete tag
      </button>
      {asked && (
        <Question
          title={`Delete the tag ${image.tag}?`}
          yes="Delete tag"
          doing="Deleting…"
          pending={remove.isPending}
          error={remove.error ? message(remove.error) : ""}
          onYes={() => remove.mutate()}
          onEnd={() => setAsked(false)}
        >
          <p className="mt-2 text-quiet">
            Who asks for {repo}:{image.tag} finds nothing then. The image can be pulled by its digest until nobody did so for 30 days, or for as long as another
            tag names it.
          </p>
        </Question>
      )}
    </>
  );
}
