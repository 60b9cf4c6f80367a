import { createRootRoute, createRoute, createRouter } from "@tanstack/react-router";

import { cacheSearch } from "./cache/filter";
import { logSearch } from "./log/orgsearch";
import { CachePage } from "./pages/cache";
import { HostsPage } from "./pages/hosts";
import { JobPage } from "./pages/job";
import { JobsPage } from "./pages/jobs";
import { LogsPage } from "./pages/logs";
import { NotFound } from "./pages/notfound";
import { RegistryPage } from "./pages/registry";
import { RepositoryPage } from "./pages/repository";
import { Shell } from "./ui/shell";

const root = createRootRoute({ component: Shell, notFoundComponent: NotFound });

const jobsRoute = createRoute({
  getParentRoute: () => root,
  path: "/",
  validateSearch: (search: Record<string, unknown>): { show?: "active" | "failed" } =>
    search.show === "active" || search.show === "failed" ? { show: search.show } : {},
  component: function Jobs() {
    const { show } = jobsRoute.useSearch();
    return <JobsPage show={show} />;
  },
});

const jobRoute = createRoute({
  getParentRoute: () => root,
  path: "/jobs/$jobId",
  component: function Job() {
    const { jobId } = jobRoute.useParams();
    return <JobPage key={jobId} jobId={jobId} />;
  },
});

const logsRoute = createRoute({
  getParentRoute: () => root,
  path: "/logs",
  validateSearch: logSearch,
  component: function Logs() {
    const search = logsRoute.useSearch();
    return <LogsPage key={JSON.stringify(search)} search={search} />;
  },
});

const cacheRoute = createRoute({
  getParentRoute: () => root,
  // Not /cache: there clients find contents by their keys.
  path: "/caches",
  validateSearch: cacheSearch,
  component: function Cache() {
    const search = cacheRoute.useSearch();
    return <CachePage key={JSON.stringify(search)} search={search} />;
  },
});

const hostsRoute = createRoute({ getParentRoute: () => root, path: "/hosts", component: HostsPage });

const registryRoute = createRoute({ getParentRoute: () => root, path: "/registry", component: RegistryPage });

// Names of repositories have slashes. Without one it is the page above, too.
const repositoryRoute = createRoute({
  getParentRoute: () => root,
  path: "/registry/$",
  component: function Repository() {
    const { _splat: repo = "" } = repositoryRoute.useParams();
    return repo ? <RepositoryPage key={repo} repo={repo} /> : <RegistryPage />;
  },
});

export const router = createRouter({ routeTree: root.addChildren([jobsRoute, jobRoute, logsRoute, cacheRoute, hostsRoute, registryRoute, repositoryRoute]) });

declare module "@tanstack/react-router" {
  interface Register {
    router: typeof router;
  }
}
