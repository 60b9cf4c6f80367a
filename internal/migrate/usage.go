package migrate

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// Usage is what an organisation's usage report says of its runners, and what
// hosts would be needed for the part that Nimbus can take.
type Usage struct {
	Days         int     `json:"days"`
	LinuxMinutes float64 `json:"linux_minutes"` // of job time, whatever the size of the runner
	OtherMinutes float64 `json:"other_minutes"` // Windows and macOS: they stay
	LinuxCost    float64 `json:"linux_cost"`    // gross, in the report's currency
	// CPUs that are busy on average, and in working hours when all work is done
	// in 40 hours of a week's 168.
	AverageCPUs float64 `json:"average_cpus"`
	WorkingCPUs float64 `json:"working_cpus"`
}

const (
	maxReportRows = 5_000_000
	workingShare  = 168.0 / 40.0
	minutesOfDay  = 24 * 60
)

// columns are the names that GitHub's reports had for each column so far.
var columns = map[string][]string{ //nolint:gochecknoglobals // a table
	"date":     {"date", "usage_at"},
	"product":  {"product"},
	"sku":      {"sku"},
	"quantity": {"quantity"},
	"unit":     {"unit_type", "unittype"},
	"cost":     {"gross_amount", "grossamount"},
}

// ReadUsage reads a usage report as GitHub exports it, CSV. size is that of a
// runner whose name tells none. Codes: invalid, too_large.
func ReadUsage(r io.Reader, size Size) (Usage, error) {
	rows := csv.NewReader(r)
	rows.ReuseRecord, rows.FieldsPerRecord = true, -1
	header, err := rows.Read()
	if err != nil {
		return Usage{}, nimbus.Errorf(nimbus.CodeInvalid, "the usage report has no first line: %w", err)
	}
	at, err := findColumns(header)
	if err != nil {
		return Usage{}, err
	}
	s := usageSum{at: at, size: size}
	for n := 2; ; n++ {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			return s.usage()
		}
		if err == nil && n > maxReportRows {
			return Usage{}, nimbus.Errorf(nimbus.CodeTooLarge, "the usage report has more than %d lines", maxReportRows)
		}
		if err == nil {
			err = s.add(row)
		}
		if err != nil {
			return Usage{}, nimbus.Errorf(nimbus.CodeInvalid, "line %d of the usage report: %w", n, err)
		}
	}
}

func findColumns(header []string) (map[string]int, error) {
	at := map[string]int{}
	for i, name := range header {
		name = strings.ToLower(strings.TrimPrefix(strings.TrimSpace(name), "\ufeff"))
		name = strings.ReplaceAll(name, " ", "_")
		for column, names := range columns {
			for _, known := range names {
				if name == known {
					at[column] = i
				}
			}
		}
	}
	for _, needed := range []string{"date", "sku", "quantity"} {
		if _, ok := at[needed]; !ok {
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "the usage report has no column %q", needed).
				WithHint("export it from the organisation's settings: Billing, Usage, Get usage report")
		}
	}
	return at, nil
}

// usageSum adds up the rows of a report.
type usageSum struct {
	at          map[string]int
	size        Size
	first, last time.Time
	cpuMinutes  float64
	out         Usage
}

var (
	cores      = regexp.MustCompile(`(\d+)[ _-]?core`)
	notRunners = regexp.MustCompile(`storage|cache|custom image`)
)

func (s *usageSum) add(row []string) error {
	field := func(column string) string {
		if i, ok := s.at[column]; ok && i < len(row) {
			return strings.TrimSpace(row[i])
		}
		return ""
	}
	sku, product := strings.ToLower(field("sku")), strings.ToLower(field("product"))
	unit := strings.ToLower(field("unit"))
	if product != "" && product != "actions" || notRunners.MatchString(sku) || unit != "" && !strings.HasPrefix(unit, "minute") {
		return nil
	}
	day, err := time.Parse(time.DateOnly, field("date")[:min(len(field("date")), len(time.DateOnly))])
	if err != nil {
		return fmt.Errorf("%q is no date", field("date"))
	}
	minutes, err := strconv.ParseFloat(field("quantity"), 64)
	if err != nil || minutes < 0 || minutes > 1e12 {
		return fmt.Errorf("%q is no quantity", field("quantity"))
	}
	if s.first.IsZero() || day.Before(s.first) {
		s.first = day
	}
	if day.After(s.last) {
		s.last = day
	}
	if !strings.Contains(sku, "linux") && !strings.Contains(sku, "ubuntu") {
		s.out.OtherMinutes += minutes
		return nil
	}
	s.out.LinuxMinutes += minutes
	s.cpuMinutes += minutes * float64(s.cpus(sku))
	cost, err := strconv.ParseFloat(strings.TrimPrefix(field("cost"), "$"), 64)
	if err == nil {
		s.out.LinuxCost += cost
	}
	return nil
}

func (s *usageSum) cpus(sku string) int {
	if m := cores.FindStringSubmatch(sku); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil && n > 0 && n <= 256 {
			return n
		}
	}
	return s.size.CPUs
}

func (s *usageSum) usage() (Usage, error) {
	if s.first.IsZero() {
		return Usage{}, nimbus.Errorf(nimbus.CodeInvalid, "the usage report has no minutes of GitHub Actions")
	}
	s.out.Days = int(s.last.Sub(s.first).Hours()/24) + 1
	s.out.AverageCPUs = s.cpuMinutes / float64(s.out.Days*minutesOfDay)
	s.out.WorkingCPUs = s.out.AverageCPUs * workingShare
	return s.out, nil
}
