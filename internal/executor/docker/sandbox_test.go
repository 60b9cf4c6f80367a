package docker_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/docker"
	"github.com/nimbus-ci/nimbus/internal/executor/executortest"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot/dnsguard/dnstest"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot/netslottest"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

const patience = 2 * time.Minute

func spec(t *testing.T) executor.Spec {
	t.Helper()
	dir, err := os.MkdirTemp("", fmt.Sprintf("nimbus-sandbox-%d-", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return executor.Spec{
		ID: nimbus.NewID(nimbus.PrefixAttempt, time.Now()), Dir: dir, Deadline: patience,
		Class: nimbus.Class{Executor: nimbus.ExecutorDocker, Image: nimbus.DefaultImage, CPUs: 1, MemoryMiB: 256, Network: nimbus.NetworkNone},
	}
}

func sandbox(ctx context.Context, t *testing.T, e *docker.Executor, sp executor.Spec) executor.Sandbox {
	t.Helper()
	s, err := e.Create(ctx, sp)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// escape is the program that tries to get out.
func escape(t *testing.T) executortest.File {
	t.Helper()
	return executortest.Program(t, testenv.Program(t, "internal/executor/microvm/testdata/escape"))
}

// TestContained looks from inside at what a job may.
func TestContained(t *testing.T) {
	cfg, _ := config(t)
	e := create(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	program := escape(t)

	t.Run("privileges", func(t *testing.T) {
		s := sandbox(ctx, t, e, spec(t))
		out, exit := executortest.Do(ctx, t, s, `
			for dir in / /usr /etc /.nimbus /.nimbus/door /sys /proc/sys; do touch $dir/x 2>/dev/null && echo wrote to $dir; done
			for dir in /workspace /tmp /root /run /var/tmp /data /dev/shm; do touch $dir/x && rm $dir/x || echo no $dir; done
			echo $HOME $NIMBUS_GUEST_DOOR $(id -u)
			grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\t'
			ls -A /workspace /tmp /.nimbus/door; stat -c %a /tmp
			[ -e /var/run/docker.sock ] && echo a daemon
			cat /proc/1/environ /proc/1/maps 2>/dev/null | head -c 4; stat -L /proc/1/fd/* 2>/dev/null; cat /proc/1/root/etc/passwd 2>/dev/null
			for signal in KILL STOP TERM INT HUP QUIT PIPE; do kill -$signal 1; done; sleep 0.1; chown 1234 /tmp && chown 0 /tmp && echo owner
			chmod +x escape; ./escape clock; ./escape forge 5.5.5.5:1 | sort -u
			hostname other 2>/dev/null && echo renamed
			exit 0`, program)
		// CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID and SETUID.
		want := "/root 0\nNoNewPrivs:1\nCapEff:00000000000000fb\nCapBnd:00000000000000fb\nSeccomp:2\n" +
			"/.nimbus/door:\n\n/tmp:\n\n/workspace:\nescape\n1777\nowner\nclock: operation not permitted " + time.Now().UTC().Format("2006") + "\nsend: operation not permitted\n"
		if f, ok := s.(executor.Furnished); !ok || !slices.Contains(f.Env(), "LESSON=one") {
			t.Errorf("the image's variables: %v", f)
		}
		if sorted(out) != sorted(want) || exit.GetCode() != 0 {
			t.Errorf("the job said:\n%s\nwant:\n%s\n%v", out, want, exit)
		}
	})
	t.Run("memory", func(t *testing.T) {
		s := sandbox(ctx, t, e, spec(t))
		out, exit := executortest.Do(ctx, t, s, `head -c 1G /dev/zero | tail | wc -c`)
		if !exit.GetOutOfMemory() {
			t.Errorf("%q, %v", out, exit)
		}
	})
	t.Run("processes", func(t *testing.T) {
		s := sandbox(ctx, t, e, spec(t))
		out, exit := executortest.Do(ctx, t, s, `chmod +x escape; ./escape bomb`, program)
		if exit.GetCode() != 9 || !exit.GetOutOfProcesses() {
			t.Errorf("%q, %v", out, exit)
		}
	})
	for _, folder := range []string{"/workspace", "/tmp", "/root"} {
		t.Run("disk of "+folder, func(t *testing.T) {
			s := sandbox(ctx, t, e, spec(t))
			out, exit := executortest.Do(ctx, t, s, "exec cat /dev/zero > "+folder+"/f")
			if exit.GetCode() == 0 || !exit.GetDiskFull() {
				t.Errorf("%q, %v", out, exit)
			}
		})
	}
	t.Run("disk", func(t *testing.T) {
		s := sandbox(ctx, t, e, spec(t))
		out, exit := executortest.Do(ctx, t, s, `
			for dir in /run /data /tmp /root /workspace; do head -c 300M /dev/zero > $dir/big 2>/dev/null && echo no bound in $dir; done; exit 3`)
		if out != "" || exit.GetCode() != 3 || !exit.GetDiskFull() {
			t.Errorf("%q, %v", out, exit)
		}
	})
}

func sorted(text string) string {
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestFence lets a job try to reach what it may not.
func TestFence(t *testing.T) {
	cfg, _ := config(t)
	world := netslottest.New(t)
	cfg.Relays = []netslot.Relay{{Port: 9000, Target: serve(t)}}
	cfg.Resolvers = []string{dnstest.Serve(t, map[string][]string{
		"ok.example.com":     {"A " + world.Public},
		"rebind.example.com": {"A 169.254.169.254"},
		"evil.net":           {"A " + world.Other},
	}).Addr}
	e := create(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	neighbour := world.Neighbour(ctx, t, cfg.Owner)
	program := escape(t)
	inside := []string{
		"169.254.169.254:80", "100.100.100.200:80", "10.0.0.1:80", "127.0.0.2:" + world.Port,
		world.Host + ":" + world.Port, "172.16.0.1:22", neighbour + ":" + world.Port, "[fd00::1]:80",
	}
	for _, c := range []struct {
		name    string
		class   nimbus.Class
		reached []string
		refused []string
	}{
		{
			"none", nimbus.Class{Network: nimbus.NetworkNone}, []string{"gateway.nimbus.internal:9000"},
			[]string{" to " + world.Public + ":" + world.Port, " to 10.0.0.1:80", " to 172.16.0.1:22"},
		},
		{
			"internet", nimbus.Class{Network: nimbus.NetworkInternet},
			[]string{"gateway.nimbus.internal:9000", world.Other + ":" + world.Port, world.Public + ":" + world.Port, "ok.example.com:" + world.Port},
			[]string{" to 169.254.169.254:80", " to 172.16.0.1:22", "rebind.example.com: it stands for addresses that are not public"},
		},
		{
			"names", nimbus.Class{Network: nimbus.NetworkNames, Reach: "*.example.com"},
			[]string{"gateway.nimbus.internal:9000", world.Public + ":" + world.Port, "ok.example.com:" + world.Port},
			[]string{" to " + world.Other + ":", "for the name evil.net: the job did not ask to reach this name"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			sp := spec(t)
			sp.Class.Network, sp.Class.Reach = c.class.Network, c.class.Reach
			s := sandbox(ctx, t, e, sp)
			out, exit := executortest.Do(ctx, t, s, strings.Join([]string{
				"chmod +x escape", "./escape look rebind.example.com evil.net >/dev/null",
				"./escape dial ok.example.com:" + world.Port + " gateway.nimbus.internal:9000",
				"./escape dial " + world.Other + ":" + world.Port + " " + world.Public + ":" + world.Port + " " + strings.Join(inside, " "),
			}, "\n"), program)
			var want strings.Builder
			for _, target := range c.reached {
				fmt.Fprintln(&want, "reached "+target)
			}
			if sorted(out) != sorted(want.String()) || exit.GetCode() != 0 {
				t.Errorf("it reached:\n%s\nwant:\n%s\n%v", out, &want, exit)
			}
			// Each connection alone is some hundred bytes.
			if u, err := s.(executor.Metered).Usage(ctx); err != nil || u.SentBytes < 200 || u.ReceivedBytes < 100 {
				t.Errorf("measured: %+v, %v", u, err)
			}
			refused, err := s.(executor.Fenced).Refused(ctx)
			if err != nil {
				t.Fatal(err)
			}
			told := fmt.Sprint(refused)
			for _, words := range c.refused {
				if !strings.Contains(told, words) {
					t.Errorf("it is not told %q: %s", words, told)
				}
			}
		})
	}
}

// serve listens on the host, for a relay.
func serve(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	return l.Addr().String()
}
