import mark from "../mark.svg";
import { Command } from "../ui/notice";

/** What somebody without a session sees, on any page. */
export function SignInPage() {
  return (
    <main className="mx-auto flex min-h-dvh max-w-md flex-col justify-center px-6">
      <img src={mark} alt="" width={56} height={56} />
      <h1 className="mt-4 text-2xl font-semibold">Sign in to Nimbus</h1>
      <p className="mt-3 text-quiet">On the machine that runs Nimbus, ask for a link. It works once, for ten minutes.</p>
      <p className="mt-4">
        <Command>nimbus login</Command>
      </p>
    </main>
  );
}
