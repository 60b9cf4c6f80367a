package cli

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
)

// TestCacheLs shows what is being saved while it comes, and once it is saved.
func TestCacheLs(t *testing.T) {
	t.Parallel()
	c := startConnected(t)
	if code, out, errs := c.now(t, "cache", "ls"); code != ExitOK || out != "" || !strings.Contains(errs, "nothing is saved") {
		t.Errorf("exit code %d: %s%s", code, out, errs)
	}
	token, err := os.ReadFile(filepath.Join(c.data, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(c.url, "http://")
	conn, err := net.Dial("tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "PUT /cache/%s/my/key HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nExpect: 100-continue\r\nContent-Length: 7\r\n\r\n",
		nimbus.DefaultOrgID, host, strings.TrimSpace(string(token)))
	answers := bufio.NewReader(conn)
	for _, want := range []string{" 100 ", "\r\n"} { // it has its place, and its content is read
		if line, err := answers.ReadString('\n'); err != nil || !strings.Contains(line, want) {
			t.Fatalf("%q, %v", line, err)
		}
	}
	if code, out, errs := c.now(t, "cache", "ls", "--prefix", "my/"); code != ExitOK || !strings.Contains(out, "my/key") || !strings.Contains(out, "(being saved)") {
		t.Errorf("exit code %d: %s%s", code, out, errs)
	}
	list := func(args ...string) (entries, uploads int) {
		t.Helper()
		code, out, errs := c.now(t, append([]string{"cache", "ls", "--json"}, args...)...)
		type thing struct {
			Key   string `json:"key"`
			Bytes int64  `json:"bytes"`
		}
		var said struct {
			Entries []thing `json:"entries"`
			Uploads []thing `json:"uploads"`
		}
		if err := json.Unmarshal([]byte(out), &said); err != nil || code != ExitOK {
			t.Fatalf("exit code %d, %v: %s%s", code, err, out, errs)
		}
		for _, e := range append(said.Entries, said.Uploads...) {
			if e.Key != "my/key" || e.Bytes != 7 {
				t.Errorf("there is %+v", e)
			}
		}
		return len(said.Entries), len(said.Uploads)
	}
	if entries, uploads := list(); entries != 0 || uploads != 1 {
		t.Errorf("%d entries and %d uploads while it comes", entries, uploads)
	}
	if entries, uploads := list("--prefix", "other"); entries != 0 || uploads != 0 {
		t.Errorf("%d entries and %d uploads begin otherwise", entries, uploads)
	}
	fmt.Fprint(conn, "content")
	if answer, err := http.ReadResponse(answers, nil); err != nil || answer.StatusCode != http.StatusCreated {
		t.Fatalf("%v, %v", answer, err)
	}
	if entries, uploads := list(); entries != 1 || uploads != 0 {
		t.Errorf("%d entries and %d uploads once it came", entries, uploads)
	}
}
