package microvm_test

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/nimbus-ci/nimbus"
	nimbusv1 "github.com/nimbus-ci/nimbus/api/gen/nimbus/v1"
	"github.com/nimbus-ci/nimbus/internal/executor"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot/dnsguard/dnstest"
	"github.com/nimbus-ci/nimbus/internal/executor/microvm/netslot/netslottest"
	"github.com/nimbus-ci/nimbus/internal/guestlink"
)

// floodVariable is how many MiB of log TestEscape lets a job write; make
// soak-escape has it write 1 GiB.
const floodVariable = "NIMBUS_SOAK_FLOOD_MIB"

// TestEscape lets a job try to get out of its machine by all that it has, and
// looks that it is contained, and told.
func TestEscape(t *testing.T) {
	cfg := config(t)
	world := netslottest.New(t)
	cfg.Relays = []netslot.Relay{{Port: 9000, Target: serve(t)}}
	cfg.Resolvers = []string{dnstest.Serve(t, map[string][]string{
		"ok.example.com":     {"A " + world.Public},
		"rebind.example.com": {"A 169.254.169.254"},
		"cname.example.com":  {"CNAME inside.example.net"},
		"inside.example.net": {"A 10.0.0.1"},
		"evil.net":           {"A " + world.Other},
	}).Addr}
	e := microvm.New(cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience+time.Duration(floodMiB())*time.Second)
	defer cancel()
	program := testProgram(t, "escape")
	if _, err := e.EnsureSnapshot(ctx, spec(t).Class); err != nil { // one boot for all that follow
		t.Fatal(err)
	}
	t.Run("over the network", func(t *testing.T) { escapeNetwork(ctx, t, e, cfg, world, program) })
	t.Run("by many processes and words", func(t *testing.T) { escapeBounds(ctx, t, e, program) })
	t.Run("by ending the guest's agent", func(t *testing.T) {
		s := create(ctx, t, e)
		out, exited := run(ctx, t, s, "kill -QUIT 1; sleep 100")
		if exited != nil {
			t.Errorf("the job ended by itself: %q, %v", out, exited)
		}
		if exit, err := s.Wait(ctx); err != nil || exit.Cause != executor.ExitSelf {
			t.Errorf("%+v, %v", exit, err)
		} else if want := "its guest agent, the machine's first process, was ended"; exit.Why != want {
			t.Errorf("it is told as %q, want %q; console: %q", exit.Why, want, exit.Detail)
		}
	})
	t.Run("by switching its machine off", func(t *testing.T) {
		s := create(ctx, t, e)
		if out, exited := run(ctx, t, s, "echo o > /proc/sysrq-trigger; echo b > /proc/sysrq-trigger; sleep 100"); exited != nil {
			t.Errorf("the job ended by itself: %q, %v", out, exited)
		}
		if exit, err := s.Wait(ctx); err != nil || exit.Why != "its machine was switched off from within" {
			t.Errorf("%+v, %v", exit, err)
		}
	})
}

func escapeNetwork(ctx context.Context, t *testing.T, e *microvm.Executor, cfg microvm.Config, world netslottest.World, program string) {
	neighbour := world.Neighbour(ctx, t, cfg.Owner)
	sp := spec(t)
	sp.Class.Network, sp.Class.Reach = nimbus.NetworkNames, "*.example.com"
	s, err := e.Create(ctx, sp)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Destroy(context.Background())
	tries := []string{
		"169.254.169.254:80", "100.100.100.200:80", "168.63.129.16:80", "10.0.0.1:80", "192.168.0.1:80", "127.0.0.2:" + world.Port,
		world.Host + ":" + world.Port, "172.16.0.1:" + world.Port, "172.16.0.1:22", neighbour + ":" + world.Port,
		world.Other + ":" + world.Port, world.Public + ":53", world.Public + ":853", "[fd00::1]:80", "[::ffff:10.0.0.1]:80",
	}
	out, exit := runWith(ctx, t, s, "escape", program, strings.Join([]string{
		"chmod +x escape", "./escape clock",
		"./escape look evil.net rebind.example.com cname.example.com ok.example.com",
		"./escape dial gateway.nimbus.internal:9000 ok.example.com:" + world.Port,
		"./escape dial " + strings.Join(tries, " "),
		"./escape forge " + world.Public + ":" + world.Port,
		"ip -6 addr 2>/dev/null | grep -q global && echo has IPv6",
		"exit 0",
	}, "\n"))
	want := fmt.Sprintf("clock: <nil> 1999\nfound ok.example.com [%s]\n", world.Public)
	rest, ok := strings.CutPrefix(out, want)
	if !ok || exit.GetCode() != 0 || strings.Count(rest, "\n") != 2 || !strings.Contains(rest, "reached gateway.nimbus.internal:9000\n") ||
		!strings.Contains(rest, "reached ok.example.com:"+world.Port+"\n") {
		t.Errorf("the job said %q, %v", out, exit)
	}
	if heard := world.Heard(); len(heard) > 0 {
		t.Errorf("forged datagrams came out: %q", heard)
	}
	refused, err := s.(executor.Fenced).Refused(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var told strings.Builder
	for _, r := range refused {
		fmt.Fprintln(&told, r)
	}
	for _, want := range []string{
		" to 169.254.169.254:80\n", " to 100.100.100.200:80\n", " to 168.63.129.16:80\n", " to 10.0.0.1:80\n", " to 172.16.0.1:22\n",
		" to " + neighbour + ":", " to " + world.Other + ":", " to " + world.Public + ":853\n",
		"for the name evil.net: the job did not ask to reach this name\n",
		"for the name rebind.example.com: it stands for addresses that are not public\n", "for the name cname.example.com: ",
		" with an address that is not the sandbox' own\n", " of IPv6, ",
	} {
		if !strings.Contains(told.String(), want) {
			t.Errorf("it is not told %q:\n%s", want, told.String())
		}
	}
}

func floodMiB() int {
	if n, err := strconv.Atoi(os.Getenv(floodVariable)); err == nil {
		return n
	}
	return 8
}

// escapeBounds has a job write a flood of log, and then fork without end.
func escapeBounds(ctx context.Context, t *testing.T, e *microvm.Executor, program string) {
	mib := floodMiB()
	sp := spec(t)
	sp.Deadline += time.Duration(mib) * time.Second // nobody renews it here
	s, err := e.Create(ctx, sp)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Destroy(context.Background())
	before := now(t).residentKiB
	bytes, rest, exit := drain(ctx, t, s, program, fmt.Sprintf("chmod +x escape; ./escape flood %d; ./escape bomb", mib))
	if bytes != int64(mib)<<20 || exit.GetCode() != 9 || !exit.GetOutOfProcesses() {
		t.Errorf("%d bytes, then %q, %v", bytes, rest, exit)
	}
	debug.FreeOSMemory()
	const slackKiB = 64 << 10
	if after := now(t).residentKiB; after > before+slackKiB {
		t.Errorf("this process, which stands for the agent, grew from %d to %d KiB", before, after)
	}
}

// drain runs a script to its end and counts the flood that it prints, as the
// agent reads it: acknowledging, so that the guest forgets.
func drain(ctx context.Context, t *testing.T, s executor.Sandbox, program, script string) (flood int64, rest string, exit *nimbusv1.Exited) {
	t.Helper()
	conn, err := s.Dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c := guestlink.NewClient(conn, s.Token())
	defer c.Close()
	_, err = c.Prepare(ctx, connect.NewRequest(&nimbusv1.PrepareRequest{
		Now: timestamppb.Now(), Entropy: make([]byte, 64), Hostname: "nimbus-flood", MachineId: strings.Repeat("0", 32), Network: s.Network(),
	}))
	if err != nil {
		t.Fatal(err)
	}
	putProgram(ctx, t, c, program)
	if _, err := c.Start(ctx, connect.NewRequest(&nimbusv1.StartRequest{AttemptId: "att", Command: []string{"bash", "-c", script}})); err != nil {
		t.Fatal(err)
	}
	stream, err := c.Watch(ctx, connect.NewRequest(&nimbusv1.WatchRequest{FromSeq: 1}))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var last []byte
	for stream.Receive() {
		m := stream.Msg()
		if exit = m.GetExited(); exit != nil {
			break
		}
		data := m.GetOutput().GetData()
		if i := strings.Index(string(data), "forked"); i >= 0 || len(last) > 0 {
			last = append(last, data[max(0, i):]...)
			data = data[:max(0, i)]
		}
		flood += int64(len(data))
		const often = 32
		if m.GetSeq()%often == 0 {
			if _, err := c.Acknowledge(ctx, connect.NewRequest(&nimbusv1.AcknowledgeRequest{Seq: m.GetSeq()})); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := stream.Err(); err != nil {
		t.Error(err)
	}
	return flood, string(last), exit
}
