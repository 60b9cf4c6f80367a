// Looks through the registry as a person would, and deletes a tag. See drive.mjs.
import { check, drive, look, say } from "./drive.mjs";

const { LINK, VIEWER } = process.env;
const at = (path) => new URL(path, LINK).href;

// A repository that is not there is answered by 404.
await drive(async (page, browser) => {
  await page.goto(LINK);
  await page.getByRole("heading", { name: "Jobs", exact: true }).waitFor();

  // Nothing yet: it says how to push.
  await page.getByRole("navigation", { name: "Main" }).getByRole("link", { name: "Registry" }).click();
  await page.getByRole("heading", { name: "No images yet" }).waitFor();
  await page.getByText(`docker push ${new URL(LINK).host}/default/app:v1`).waitFor();
  await look(page, "registry-empty");

  await say("push");
  await page.reload();
  const repo = page.getByRole("link", { name: /default\/team\/app/ });
  await repo.getByText("4 tags · Tags do not change").waitFor();
  await page.getByRole("meter", { name: "Quota used" }).waitFor();
  await look(page, "registry");

  // By the keyboard alone: into the repository, a tag open, its command copied.
  await repo.focus();
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "team/app", exact: true }).waitFor();
  check(new URL(page.url()).pathname === "/registry/team/app", `the page is ${page.url()}`);
  const row = (tag) => page.getByRole("listitem").filter({ has: page.locator("summary", { hasText: tag }) });
  await row("v1").locator("summary").getByText("SBOM").waitFor();
  await row("v1").locator("summary").getByText("2 × signature").waitFor();
  await row("all").locator("summary").getByText("linux/amd64, linux/arm64").waitFor();
  await row("v1").locator("summary").focus();
  await page.keyboard.press("Enter");
  const command = `docker pull ${new URL(LINK).host}/default/team/app:v1`;
  await row("v1").getByText(command).waitFor();
  await row("v1").getByText("application/spdx+json").waitFor();
  await browser.contexts()[0].grantPermissions(["clipboard-read", "clipboard-write"]);
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "Copied the command" }).waitFor();
  check((await page.evaluate(() => navigator.clipboard.readText())) === command, "another text is copied");
  await look(page, "repository");

  // Where tags do not change none is offered to be deleted.
  await row("gone").locator("summary").click();
  await row("gone").getByText("Tags of this repository do not change").waitFor();
  check((await page.getByRole("button", { name: "Delete tag" }).count()) === 0, "a tag that may not change is offered to be deleted");
  await say("may change");
  await page.reload();

  // A tag goes once that is confirmed, not before; the keyboard goes on where it asked.
  await row("gone").locator("summary").click();
  await row("gone").getByRole("button", { name: "Delete tag" }).click();
  const dialog = page.getByRole("dialog", { name: "Delete the tag gone?" });
  await dialog.waitFor();
  await look(page, "repository-delete");
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "hidden" });
  await page.locator(":focus").and(row("gone").getByRole("button", { name: "Delete tag" })).waitFor(); // the keyboard goes on from there
  await say("still there");
  await row("gone").getByRole("button", { name: "Delete tag" }).click();
  await dialog.getByRole("button", { name: "Delete tag" }).click();
  await row("gone").waitFor({ state: "detached" });
  await page.getByText("3 tags").waitFor();
  await say("removed");

  await page.getByRole("navigation", { name: "Breadcrumb" }).getByRole("link", { name: "Registry" }).click();
  await repo.getByText("3 tags").waitFor();
  await page.goto(at("/registry/team/none"));
  await page.getByRole("heading", { name: "The repository can't be read" }).waitFor();

  // Who may only look is offered nothing that is refused.
  await page.context().clearCookies();
  await page.goto(VIEWER);
  await page.getByRole("heading", { name: "Jobs", exact: true }).waitFor();
  await page.goto(at("/registry/team/app"));
  await row("v1").locator("summary").click();
  await row("v1").getByText(command).waitFor();
  check((await page.getByRole("button", { name: "Delete tag" }).count()) === 0, "a viewer is offered to delete");
}, /404|401/);
