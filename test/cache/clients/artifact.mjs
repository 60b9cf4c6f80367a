// One call of @actions/artifact, in the environment of an action:
//
//   node artifact.mjs upload NAME FILE…
//   node artifact.mjs list
//   node artifact.mjs download NAME INTO
//   node artifact.mjs delete NAME
//
// What the client logs is on standard output as in a job's log; the last line is
// the result, as JSON, or what it threw.
import { DefaultArtifactClient } from '@actions/artifact'

const client = new DefaultArtifactClient()
const [verb, ...args] = process.argv.slice(2)

async function call() {
  switch (verb) {
    case 'upload':
      return client.uploadArtifact(args[0], args.slice(1), process.cwd())
    case 'list':
      return client.listArtifacts()
    case 'download': {
      const { artifact } = await client.getArtifact(args[0])
      return client.downloadArtifact(artifact.id, { path: args[1], expectedHash: artifact.digest })
    }
    case 'delete':
      return client.deleteArtifact(args[0])
    default:
      throw new Error(`what is ${verb}?`)
  }
}

let out
try {
  out = { result: await call() }
} catch (err) {
  out = { error: String(err) }
}
console.log('\n' + JSON.stringify(out))
