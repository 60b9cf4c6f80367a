package netslot

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Traffic is how many bytes the guest of a slot has sent and received, read
// through a process that is in the slot's namespace: a file is cheaper than to
// go there.
func Traffic(pid int) (sent, received int64, err error) {
	received, sent, err = passed(pid, TapName) // what the guest sends, the tap receives
	return sent, received, err
}

// TrafficInside is Traffic through a process of a container that was connected
// to a slot: there it is the other end.
func TrafficInside(pid int) (sent, received int64, err error) { return passed(pid, pairName) }

// passed is what went through a device of a process' network.
func passed(pid int, device string) (sent, received int64, err error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("measure network slot: %w", err)
	}
	const rxBytes, txBytes = 0, 8 // of a device's numbers
	for line := range strings.Lines(string(raw)) {
		name, rest, _ := strings.Cut(line, ":")
		numbers := strings.Fields(rest)
		if strings.TrimSpace(name) != device || len(numbers) <= txBytes {
			continue
		}
		if sent, err = strconv.ParseInt(numbers[txBytes], 10, 64); err == nil {
			received, err = strconv.ParseInt(numbers[rxBytes], 10, 64)
		}
		if err != nil {
			return 0, 0, fmt.Errorf("measure network slot: %w", err)
		}
		return sent, received, nil
	}
	return 0, 0, nil // the process has no such network
}
