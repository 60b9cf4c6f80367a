// Package migrate moves workflow files to Nimbus: it tells of each job whether
// it will run and why not, and rewrites runs-on of those that will. All else of
// a file stays as it is, byte for byte.
package migrate
