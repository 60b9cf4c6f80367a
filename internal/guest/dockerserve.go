package guest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// dockerTries is how many daemons may end, one after another, of which none has
	// let a client in.
	dockerTries = 5
	// dockerMostRest bounds the rest after them, which grows.
	dockerMostRest = 5 * time.Minute
	// turnAwayTimeout bounds what is said to a client that is turned away, and
	// turnAwayBytes what is heard of it.
	turnAwayTimeout = time.Second
	turnAwayBytes   = 64 << 10
)

// patience is how long is waited for a daemon.
type patience struct {
	look  time.Duration // between looks whether it lets clients in
	slow  time.Duration // that it may take to, until the job hears of it
	start time.Duration // that it may take to at all
	pause time.Duration // before the next one is started
	rest  time.Duration // after some that failed, at first
}

func defaultPatience() patience {
	return patience{look: 100 * time.Millisecond, slow: 10 * time.Second, start: 3 * time.Minute, pause: time.Second, rest: 30 * time.Second}
}

// serve starts the daemon whenever there is a client and no daemon, for as long
// as the job lives. After some that failed, clients are turned away for a while.
func (d *docker) serve() {
	rest := d.waits.rest
	for failed := 0; !d.tree.ending.Load(); {
		if _, err := d.clientWaits(-1); err != nil {
			d.say(err.Error())
			return
		}
		if d.tree.ending.Load() {
			return
		}
		why, served := d.run()
		if d.tree.ending.Load() {
			return // it was killed with all else
		}
		if why != "" {
			d.say(why)
		}
		if failed++; served {
			failed, rest = 0, d.waits.rest
		}
		if failed < dockerTries {
			<-time.After(d.waits.pause)
			continue
		}
		d.say(fmt.Sprintf("the docker daemon is not started again for %v: its clients are turned away", rest))
		d.turnAway(rest, why)
		failed, rest = 0, min(2*rest, dockerMostRest)
	}
}

// run starts the daemon, waits for its end, and tells why it ended, where nobody
// wanted that. Served is whether it has let a client in.
func (d *docker) run() (why string, served bool) {
	from := logSize()
	p, err := d.begin()
	if err != nil {
		return "the docker daemon can't be started: " + err.Error(), false
	}
	ended, watched := make(chan struct{}), make(chan bool)
	go func() { watched <- d.watch(p, ended) }() // ends with the daemon
	state, err := p.Wait()
	d.tree.forget(p.Pid)
	close(ended)
	served = <-watched
	switch {
	case err != nil:
		why = "wait for the docker daemon: " + err.Error()
	case state.Exited() && state.ExitCode() == 0 && served: // a step has ended it
	case state.Exited():
		why = fmt.Sprintf("the docker daemon has ended with %d: %s", state.ExitCode(), lastWords(from))
	default:
		why = fmt.Sprintf("the docker daemon was ended by a %s: %s", state, lastWords(from))
	}
	return why, served
}

// watch waits until a daemon has let a client in, which it does once it can
// answer, and tells whether it has. One that takes too long is killed.
func (d *docker) watch(p *os.Process, ended <-chan struct{}) bool {
	look := time.NewTicker(d.waits.look)
	defer look.Stop()
	slow, late := time.After(d.waits.slow), time.After(d.waits.start)
	for {
		select {
		case <-ended:
			waits, err := d.clientWaits(0)
			return err == nil && !waits
		case <-look.C:
			if waits, err := d.clientWaits(0); err == nil && !waits {
				return true
			}
		case <-slow:
			d.say("the docker daemon is starting: that takes long where the host is busy, or emulates the machine")
		case <-late:
			d.say(fmt.Sprintf("the docker daemon has not answered for %v: it is killed", d.waits.start))
			_ = p.Kill() // gone already is fine
		}
	}
}

// clientWaits tells whether a client waits to be let in, which is left to the
// daemon, and waits for that so long; for ever if it is negative.
func (d *docker) clientWaits(most time.Duration) (bool, error) {
	ms := -1
	if most >= 0 {
		ms = int(most / time.Millisecond)
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(d.socket.Fd()), Events: unix.POLLIN}}, ms) //nolint:gosec // a descriptor
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("wait for docker's clients: %w", err)
		}
		return n > 0, nil
	}
}

// turnAway answers clients for a while in the daemon's place: those that waited
// for it, and those that come.
func (d *docker) turnAway(rest time.Duration, why string) {
	answer := refusal("nimbus: " + why)
	for until := time.Now().Add(rest); !d.tree.ending.Load(); {
		left := time.Until(until)
		if left <= 0 {
			return
		}
		waits, err := d.clientWaits(min(left, time.Second))
		if err == nil && waits {
			err = d.answer(answer)
		}
		if err != nil {
			<-time.After(d.waits.look)
		}
	}
}

// answer lets a client in, answers whatever it asks, and closes its connection.
func (d *docker) answer(with []byte) error {
	fd, _, err := unix.Accept4(int(d.socket.Fd()), unix.SOCK_CLOEXEC)
	if err != nil {
		return fmt.Errorf("let a client of docker in: %w", err)
	}
	f := os.NewFile(uintptr(fd), "docker's client") //nolint:gosec // a descriptor
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return fmt.Errorf("let a client of docker in: %w", err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(turnAwayTimeout))
	_, _ = conn.Read(make([]byte, turnAwayBytes)) // what it asks is all the same
	_, _ = conn.Write(with)                       // one that has gone needs none
	return nil
}

// refusal is an answer that docker's client shows to who called it.
func refusal(why string) []byte {
	said, _ := json.Marshal(struct { //nolint:errchkjson // a word
		Message string `json:"message"`
	}{why})
	r := http.Response{
		StatusCode: http.StatusServiceUnavailable, ProtoMajor: 1, ProtoMinor: 1, Close: true,
		Header: http.Header{"Content-Type": {"application/json"}}, ContentLength: int64(len(said)), Body: io.NopCloser(bytes.NewReader(said)),
	}
	var b bytes.Buffer
	_ = r.Write(&b) // into memory
	return b.Bytes()
}
