// Package githubtest is a double of GitHub: a real HTTP server that Nimbus's
// own code talks to in tests and in `nimbus up --demo`, as it talks to GitHub.
//
// What it checks, and records as Violations:
//   - every request and every answer of the REST API against GitHub's OpenAPI
//     description, every webhook's body against GitHub's schemas (apidesc);
//   - calls of operations that it does not have.
//
// What it does as GitHub does:
//   - the App's JWT is verified (RS256, iss, iat, exp within 10 minutes), access
//     tokens end after an hour and with 401, a suspended installation is 403;
//   - runner names are unique in a repository (409), a busy runner can't be
//     removed (422), a just-in-time configuration is good for one session;
//   - a queued job goes to any idle online runner that has its labels, whoever
//     it was made for; a job in progress goes to nobody else; an ephemeral
//     runner is deregistered after its job, an idle one after some minutes;
//   - a job whose runner falls silent fails, a cancelled one that does not end
//     is ended; rerun-failed-jobs gives new jobs in a new attempt;
//   - a runner that is older than the releases of the last month is refused;
//   - deliveries are signed, listed for three days, and redelivered under their
//     GUID; they can be late, doubled, lost and disordered (PlanDeliveries);
//   - calls count against Limits, which every answer tells, and are refused
//     beyond them; they can fail, before or after they are done (PlanCalls).
//
// What it can't: organisation runners, runner groups, check runs and comments,
// permissions of single tokens, GitHub's lag between its API and its webhooks,
// TLS, and the official runner, whose
// protocol is not public: the stand-in (runner) speaks protocol instead.
// Workflow files are a subset, see workflow.
package githubtest
