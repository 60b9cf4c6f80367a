package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tree makes a root with the files that are named.
func tree(t *testing.T, files map[string]string) kernelTree {
	t.Helper()
	root := t.TempDir()
	for path, text := range files {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return kernelTree{root}
}

func TestAdvice(t *testing.T) {
	const flaws = "sys/devices/system/cpu/vulnerabilities/"
	for name, c := range map[string]struct {
		files map[string]string
		want  map[string]string // check: status, and a part of what it says
	}{
		"nothing to be read": {nil, map[string]string{}},
		"as it should be": {
			map[string]string{
				"proc/cpuinfo": "flags\t\t: fpu vmx sse\n", "sys/devices/system/cpu/smt/active": "0\n", "sys/kernel/mm/ksm/run": "0\n",
				"proc/swaps": "Filename Type Size Used Priority\n", flaws + "meltdown": "Mitigation: PTI\n",
			},
			map[string]string{"virtual": "ok its own", "smt": "ok", "ksm": "ok", "swap": "ok none", "cpu flaws": "ok"},
		},
		"shared": {
			map[string]string{
				"sys/devices/system/cpu/smt/active": "1\n", "sys/kernel/mm/ksm/run": "1\n",
				"proc/swaps":  "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n",
				flaws + "mds": "Vulnerable: no microcode\n", flaws + "meltdown": "Not affected\n",
			},
			map[string]string{"smt": "warn two threads", "ksm": "warn merges", "swap": "warn disk", "cpu flaws": "warn about mds"},
		},
		"a guest":                {map[string]string{"proc/cpuinfo": "flags : fpu hypervisor\n"}, map[string]string{"virtual": "warn without nested"}},
		"a guest that may":       {map[string]string{"proc/cpuinfo": "flags : vmx hypervisor\n"}, map[string]string{"virtual": "ok lets it"}},
		"a guest with a device":  {map[string]string{"proc/cpuinfo": "flags : hypervisor\n", "dev/kvm": ""}, map[string]string{"virtual": "ok lets it"}},
		"a processor of another": {map[string]string{"proc/cpuinfo": "Features : fp asimd\n"}, map[string]string{"virtual": "ok"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := tree(t, c.files).advice()
			if len(got) != len(c.want) {
				t.Errorf("got %+v", got)
			}
			for _, check := range got {
				status, part, _ := strings.Cut(c.want[check.Name], " ")
				if string(check.Status) != status || !strings.Contains(check.Detail, part) {
					t.Errorf("%s: got %+v, want %s", check.Name, check, c.want[check.Name])
				}
				if check.Status != OK && check.Hint == "" {
					t.Errorf("%s: no next step", check.Name)
				}
			}
		})
	}
}
