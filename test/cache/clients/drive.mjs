// One call of @actions/cache, in the environment of an action:
//
//   node drive.mjs save KEY PATH
//   node drive.mjs restore PATH KEY [RESTORE_KEY…]
//
// What the client logs is on standard output as in a job's log; the last line is
// the result, as JSON: the id that save returns, or the key that was restored.
import * as cache from '@actions/cache'

const [verb, ...args] = process.argv.slice(2)
let result
switch (verb) {
  case 'save':
    result = await cache.saveCache([args[1]], args[0])
    break
  case 'restore':
    result = (await cache.restoreCache([args[0]], args[1], args.slice(2))) ?? null
    break
  default:
    throw new Error(`what is ${verb}?`)
}
console.log(JSON.stringify({ result }))
