package migrate

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// blockers are what a job needs and the image runner doesn't have.
func (m *mover) blockers(job tree) []Note {
	const noDocker = "the image runner has no Docker: move it by hand to [nimbus, image:docker], where it has a daemon of its own"
	var out []Note
	if _, line := job.get("services"); line > 0 {
		out = append(out, Note{line, "it has services, which are containers", noDocker})
	}
	if _, line := job.get("container"); line > 0 {
		out = append(out, Note{line, "it runs in a container", noDocker})
	}
	for _, s := range steps(job) {
		switch {
		case strings.HasPrefix(s.uses, "docker://"):
			out = append(out, Note{s.line, s.uses + " is a container", noDocker})
		case strings.HasPrefix(s.action(), "docker/"):
			out = append(out, Note{s.line, s.uses + " needs Docker", noDocker})
		case s.commands["docker"] || s.commands["docker-compose"]:
			out = append(out, Note{s.line, "a step calls docker", noDocker})
		}
	}
	return out
}

// setups are the actions that bring tools which GitHub's image has anyway.
var setups = map[string][]string{ //nolint:gochecknoglobals // a table
	"actions/setup-node":                     {"node", "npm", "npx", "yarn"},
	"actions/setup-go":                       {"go", "gofmt"},
	"actions/setup-java":                     {"java", "javac"},
	"actions/setup-dotnet":                   {"dotnet"},
	"actions-rust-lang/setup-rust-toolchain": {"cargo", "rustc", "rustup"},
	"dtolnay/rust-toolchain":                 {"cargo", "rustc", "rustup"},
	"astral-sh/setup-uv":                     {"uv", "uvx"},
	"gradle/actions/setup-gradle":            {"gradle"},
	"azure/setup-kubectl":                    {"kubectl"},
	"azure/setup-helm":                       {"helm"},
	"hashicorp/setup-terraform":              {"terraform"},
	"pnpm/action-setup":                      {"pnpm", "pnpx"},
	"oven-sh/setup-bun":                      {"bun", "bunx"},
	"denoland/setup-deno":                    {"deno"},
}

// ubuntuOnly are actions whose builds are made for GitHub's Ubuntu.
var ubuntuOnly = map[string]string{ //nolint:gochecknoglobals // a table
	"actions/setup-python": "its builds of Python are for Ubuntu; the image is Debian: use astral-sh/setup-uv, or an image with Python",
	"ruby/setup-ruby":      "its builds of Ruby are for Ubuntu; the image is Debian: use an image with Ruby",
}

// hostedTools are commands that GitHub's image has, with the package of
// Debian's that has them, where one has.
var hostedTools = map[string]string{ //nolint:gochecknoglobals // a table
	"make": "make", "gcc": "gcc", "g++": "g++", "cc": "gcc", "cmake": "cmake", "clang": "clang", "ninja": "ninja-build", "pkg-config": "pkg-config",
	"python": "python-is-python3", "python3": "python3", "pip": "python3-pip", "pip3": "python3-pip", "pipx": "pipx",
	"node": "", "npm": "", "npx": "", "yarn": "", "go": "", "cargo": "", "rustc": "", "rustup": "", "java": "default-jdk", "javac": "default-jdk",
	"mvn": "maven", "gradle": "gradle", "ruby": "ruby", "gem": "ruby", "bundle": "bundler", "php": "php", "composer": "composer", "dotnet": "",
	"jq": "jq", "yq": "", "wget": "wget", "rsync": "rsync", "zip": "zip", "sqlite3": "sqlite3", "psql": "postgresql-client", "mysql": "default-mysql-client",
	"ssh": "openssh-client", "scp": "openssh-client", "gpg": "gnupg", "perl": "perl", "sudo": "sudo", "shellcheck": "shellcheck", "parallel": "parallel",
	"gh": "gh", "aws": "awscli", "az": "", "gcloud": "", "kubectl": "", "helm": "", "terraform": "", "pwsh": "", "swift": "",
	"google-chrome": "", "chromium": "chromium", "firefox": "firefox-esr", "xvfb-run": "xvfb",
}

// differences are what a job that moves will find otherwise than at GitHub.
func (m *mover) differences(job tree) []Note {
	var out []Note
	missing := map[string]int{} // by the line of the first use
	brought := map[string]bool{}
	for _, s := range steps(job) {
		for _, tool := range setups[s.action()] {
			brought[tool] = true
		}
		if why, ok := ubuntuOnly[s.action()]; ok {
			out = append(out, Note{s.line, s.uses + " may find nothing", why})
		}
		if shell := strings.Fields(s.shell); len(shell) > 0 && (shell[0] == "pwsh" || shell[0] == "python") {
			s.commands[shell[0]] = true
		}
		for _, tool := range slices.Sorted(maps.Keys(s.commands)) {
			if _, hosted := hostedTools[tool]; hosted && !brought[tool] && !slices.Contains(m.image, tool) && missing[tool] == 0 {
				missing[tool] = s.line
			}
		}
	}
	return append(out, m.missingTools(missing)...)
}

func (m *mover) missingTools(missing map[string]int) []Note {
	if len(missing) == 0 {
		return nil
	}
	tools := slices.Sorted(maps.Keys(missing))
	line := 0
	var packages []string
	for _, tool := range tools {
		if at := missing[tool]; line == 0 || at < line {
			line = at
		}
		if p := hostedTools[tool]; p != "" && !slices.Contains(packages, p) {
			packages = append(packages, p)
		}
	}
	hint := "bring it by an action that sets it up, or have it in the image"
	if len(packages) > 0 {
		hint += "; Debian's packages: " + strings.Join(packages, " ")
	}
	return []Note{{line, fmt.Sprintf("the image has no %s, which GitHub's has", strings.Join(tools, ", ")), hint}}
}

// step is what of a step matters here.
type step struct {
	line     int
	uses     string
	shell    string
	commands map[string]bool
}

// action is what it uses, without the version.
func (s step) action() string {
	name, _, _ := strings.Cut(strings.ToLower(s.uses), "@")
	return name
}

func steps(job tree) (out []step) {
	list, _ := job.get("steps")
	defaults, _ := job.get("defaults")
	run, _ := defaults.get("run")
	shell, _ := run.get("shell")
	usual, _ := shell.text()
	for _, item := range list.items() {
		s := step{line: item.line(), shell: usual}
		for _, p := range item.pairs() {
			value, _ := p.value.text()
			switch p.key {
			case "uses":
				s.uses, s.line = value, p.line
			case "run":
				s.commands, s.line = commands(value), p.line
			case "shell":
				s.shell = value
			}
		}
		if s.commands == nil {
			s.commands = map[string]bool{}
			s.shell = ""
		}
		out = append(out, s)
	}
	return out
}

// command is the first word of each command of a script, and the one behind it,
// as far as a regular expression can tell.
var command = regexp.MustCompile(`(?m)(?:^|[;&|(` + "`" + `]|\bthen\b|\bdo\b|\belse\b)[ \t]*(?:[A-Z_][A-Z0-9_]*=\S*[ \t]+)*([A-Za-z][A-Za-z0-9+._-]*)(?:[ \t]+([A-Za-z][A-Za-z0-9+._-]*))?`)

// commands are what a script calls.
func commands(script string) map[string]bool {
	out := map[string]bool{}
	for _, m := range command.FindAllStringSubmatch(script, -1) {
		out[m[1]] = true
		switch m[1] {
		case "sudo", "exec", "time", "env", "xargs":
			out[m[2]] = true
		}
	}
	return out
}
