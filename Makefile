# GNU make. Objects go to $(BUILD); `make help` lists the targets.
#
# Respected: PREFIX DESTDIR CC CXX CFLAGS CPPFLAGS LDFLAGS, SANITIZE=address,undefined,
# WERROR=1 (CI), BUILD=<folder>, PYTHON=<interpreter of the demo and the tests>.

VERSION := 0.1.0
BUILD   ?= build
PREFIX  ?= /usr/local
DESTDIR ?=
docdir  := share/doc/stacksample

PKGS      := libelf libcjson sqlite3 zlib liblzma
PKG_CONFIG ?= pkg-config
CFLAGS    ?= -O2 -g
# Wconversion and the rest are docs/internals.md's warning set.
WARNINGS  := -Wall -Wextra -Wshadow -Wconversion -Wmissing-prototypes \
             -Wstrict-prototypes -Wvla -Wformat=2 $(if $(WERROR),-Werror)
SS_CPPFLAGS = -Iinclude -I$(BUILD)/gen -D_GNU_SOURCE -DSS_VERSION='"$(VERSION)"' \
              $(if $(SANITIZE)$(TESTING),-DSS_TESTING) \
              $(if $(SANITIZE),,-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2) \
              $(shell $(PKG_CONFIG) --cflags $(PKGS)) $(CPPFLAGS)
SS_CFLAGS   = -std=c17 -fno-omit-frame-pointer -pthread $(WARNINGS) $(CFLAGS) \
              $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-sanitize-recover=all)
# unw_init_remote and the undeclared _Ux86_64_dwarf_search_unwind_table live in
# libunwind-x86_64; libstdc++ only for __cxa_demangle.
SS_LIBS     = $(shell $(PKG_CONFIG) --libs $(PKGS)) -lunwind-x86_64 -lunwind \
              -lstdc++ -lm -pthread
BANNED      = -include include/stacksample/banned.h

SRC  := $(sort $(wildcard src/*/*.c))
OBJ  := $(SRC:%.c=$(BUILD)/%.o)
LIB  := $(BUILD)/libstacksample.a
BIN  := $(BUILD)/stacksample

UNIT    := $(sort $(wildcard tests/unit/test_*.c))
UNITBIN := $(UNIT:tests/unit/%.c=$(BUILD)/unit/%)
FUZZ    := $(sort $(wildcard tests/fuzz/fuzz_*.c))
FUZZBIN := $(FUZZ:tests/fuzz/%.c=$(BUILD)/fuzz/%)
TARGETS := $(sort $(wildcard tests/targets/*.c))
TARGETXX := $(sort $(wildcard tests/targets/*.cc))
TARGETBIN := $(TARGETS:tests/targets/%.c=$(BUILD)/targets/%) \
             $(TARGETXX:tests/targets/%.cc=$(BUILD)/targets/%)

BENCH    := $(sort $(wildcard tests/bench/*.c))
BENCHBIN := $(BENCH:tests/bench/%.c=$(BUILD)/bench/%)

Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-7s %s\n' $(1) $(2);)

all: $(BIN)

# Make's own bookkeeping: rebuild objects when the flags change.
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@printf '%s\n' '$(CC) $(SS_CPPFLAGS) $(SS_CFLAGS)' | cmp -s - $@ || \
	 printf '%s\n' '$(CC) $(SS_CPPFLAGS) $(SS_CFLAGS)' > $@

$(BUILD)/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) $(SS_CPPFLAGS) $(SS_CFLAGS) $(BANNED) -MMD -MP -c -o $@ $<

# The flamegraph's page, as C arrays.
PAGE := $(BUILD)/gen/flamegraph_page.h
$(PAGE): scripts/embed $(wildcard src/output/flamegraph*.html src/output/flamegraph*.css \
                                  src/output/flamegraph*.js)
	@mkdir -p $(@D)
	$(call say,GEN,$@)( cd src/output && embed=../../scripts/embed && \
	  $$embed flamegraph_html flamegraph.html && $$embed flamegraph_css flamegraph.css && \
	  $$embed flamegraph_js flamegraph_model.js flamegraph.js \
	) > $@.tmp && mv $@.tmp $@
$(BUILD)/src/output/flamegraph.o: $(PAGE)

$(LIB): $(OBJ)
	$(call say,AR,$@)rm -f $@ && $(AR) rcs $@ $(OBJ)

$(BIN): $(BUILD)/src/main.o $(LIB)
	$(call say,LD,$@)$(CC) $(SS_CFLAGS) $(LDFLAGS) -o $@ $^ $(SS_LIBS)

$(BUILD)/unit/%: tests/unit/%.c $(LIB)
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) $(SS_CPPFLAGS) -Itests/lib $(SS_CFLAGS) $(LDFLAGS) -MMD -MP \
	  -o $@ $< $(LIB) $(SS_LIBS) -lcmocka

# Without libFuzzer the same entry is driven over files: tests/lib/fuzz_main.c.
$(BUILD)/fuzz/%: tests/fuzz/%.c tests/lib/fuzz_main.c $(LIB)
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) $(SS_CPPFLAGS) -Itests/lib $(SS_CFLAGS) $(LDFLAGS) -MMD -MP \
	  -o $@ $< $(if $(LIBFUZZER),-fsanitize=fuzzer,tests/lib/fuzz_main.c) $(LIB) $(SS_LIBS)

# Programs of the bench that measure our library by itself.
$(BUILD)/bench/%: tests/bench/%.c $(LIB)
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) $(SS_CPPFLAGS) -Itests/lib $(SS_CFLAGS) $(LDFLAGS) -MMD -MP \
	  -o $@ $< $(LIB) $(SS_LIBS)

benches: $(BENCHBIN)

# Victims for the tests: plain programs, built without our flags.
$(BUILD)/targets/omp_%: TARGET_FLAGS := -fopenmp
$(BUILD)/targets/%: tests/targets/%.c
	@mkdir -p $(@D)
	$(call say,TARGET,$@)$(CC) -std=gnu17 -O2 -g -Wall -Wextra -pthread $(TARGET_FLAGS) -o $@ $< -ldl

$(BUILD)/targets/%: tests/targets/%.cc
	@mkdir -p $(@D)
	$(call say,TARGET,$@)$(CXX) -std=gnu++17 -O2 -g -Wall -Wextra -pthread -o $@ $<

# Files of made-up profiles, for the tests of viewers.
FIXTURE := $(BUILD)/write_fixture
$(FIXTURE): tests/lib/write_fixture.c $(LIB)
	$(call say,LD,$@)$(CC) $(SS_CPPFLAGS) -Itests/lib $(SS_CFLAGS) $(LDFLAGS) -MMD -MP \
	  -o $@ $< $(LIB) $(SS_LIBS)

targets: $(TARGETBIN)

-include $(OBJ:.o=.d) $(BUILD)/src/main.d $(UNITBIN:=.d) $(FUZZBIN:=.d) $(FIXTURE).d \
         $(BENCHBIN:=.d)

clean:
	rm -rf $(BUILD)

.PHONY: all targets benches clean FORCE
.SECONDARY:
FORCE:

# ---- the two commands of the README ------------------------------------------

# They build on all cores without being told; -j given by the user wins.
JOBS = $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc))
SUBMAKE = $(MAKE) --no-print-directory

demo:
	$(Q)scripts/deps build
	$(Q)$(SUBMAKE) $(JOBS) all
	$(Q)scripts/demo $(BIN)

check:
	$(Q)scripts/deps test
	$(Q)$(SUBMAKE) $(JOBS) all targets
	$(Q)$(SUBMAKE) $(JOBS) check-layers check-unit
	$(Q)$(SUBMAKE) $(JOBS) SANITIZE=address,undefined BUILD=$(BUILD)-san check-unit check-corpus
	$(Q)$(SUBMAKE) check-e2e

# ---- tests ------------------------------------------------------------------

objects: $(OBJ)

# One binary a module; a crash is one red line.
check-unit: $(UNITBIN)
	$(Q)sh tests/lib/run_unit.sh $(UNITBIN)

# Every fuzz entry over its saved inputs.
check-corpus: $(FUZZBIN)
	$(Q)sh tests/lib/run_corpus.sh $(FUZZBIN)

check-layers:
	$(Q)scripts/check-layers

E2E ?= $(wildcard tests/e2e tests/faults)
check-e2e: $(BIN) $(TARGETBIN) $(FIXTURE) $(BUILD)/unit/test_stepping
	$(Q)STACKSAMPLE=$(abspath $(BIN)) SS_TARGETS=$(abspath $(BUILD)/targets) \
	  SS_FIXTURE=$(abspath $(FIXTURE)) \
	  /usr/bin/python3 -m pytest -q -p no:cacheprovider $(PYTEST_FLAGS) $(E2E)

# All that the engine has a part in, once more where perf_event_open is refused. Left
# out: what reads files only, and the tests that refuse it themselves.
NO_ENGINE := flamegraph report manual packaging doctor secrets skips wheel_torch ptrace_engine
check-ptrace:
	$(Q)scripts/deps test
	$(Q)$(SUBMAKE) $(JOBS) all targets
	$(Q)SS_DENY_PERF=EPERM $(SUBMAKE) check-e2e E2E="tests/faults $(filter-out \
	  $(NO_ENGINE:%=tests/e2e/test_%.py),$(wildcard tests/e2e/test_*.py))"

# Python frames on every interpreter that scripts/pythons finds.
check-matrix: all targets $(BUILD)/unit/test_py_live
	$(Q)SS_TEST_PYTHONS=$$(scripts/pythons --joined) $(BUILD)/unit/test_py_live
	$(Q)$(SUBMAKE) check-e2e E2E="tests/matrix tests/e2e/test_python_frames.py"

fuzz:
	$(Q)$(SUBMAKE) $(JOBS) SANITIZE=address,undefined BUILD=$(BUILD)-san fuzz-run

FUZZ_SECONDS ?= 60
fuzz-run: $(FUZZBIN)
	$(Q)sh tests/lib/run_corpus.sh -mutate $(FUZZ_SECONDS) $(FUZZBIN)

BENCH_STEPS ?=
bench:
	$(Q)scripts/deps bench
	$(Q)$(SUBMAKE) $(JOBS) all targets benches
	$(Q)tests/bench/run $(BUILD) $(BENCH_STEPS)

soak:
	$(Q)scripts/soak $(BUILD)

lint:
	$(Q)scripts/deps lint
	$(Q)scripts/lint

format:
	clang-format -i $(wildcard src/*.c src/*/*.[ch] include/stacksample/*.h tests/*/*.[ch])

# ---- install -------------------------------------------------------------------

# What goes where, as SOURCE:FOLDER/NAME below PREFIX; uninstall removes the same.
INSTALLED := $(BIN):bin/stacksample \
  $(foreach page,$(wildcard docs/man/*.1),$(page):share/man/man1/$(notdir $(page))) \
  scripts/completions/stacksample.bash:share/bash-completion/completions/stacksample \
  scripts/completions/_stacksample:share/zsh/site-functions/_stacksample \
  scripts/completions/stacksample.fish:share/fish/vendor_completions.d/stacksample.fish \
  $(foreach doc,README.md LICENSE $(wildcard docs/*.md),$(doc):$(docdir)/$(notdir $(doc)))

install: $(BIN)
	$(Q)for pair in $(INSTALLED); do \
	  from=$${pair%%:*} to='$(DESTDIR)$(PREFIX)'/$${pair#*:} mode=0644; \
	  [ "$$from" != $(BIN) ] || mode=0755; \
	  install -D -m $$mode "$$from" "$$to" || exit 1; \
	done

uninstall:
	$(Q)for pair in $(INSTALLED); do rm -f '$(DESTDIR)$(PREFIX)'/$${pair#*:}; done
	$(Q)rmdir '$(DESTDIR)$(PREFIX)/$(docdir)' 2>/dev/null || true

# ---- packages ------------------------------------------------------------------

dist:
	$(Q)mkdir -p $(BUILD)
	git archive --prefix=stacksample-$(VERSION)/ -o $(BUILD)/stacksample-$(VERSION).tar.gz HEAD

# pip install of it puts stacksample on PATH.
wheel: $(BUILD)/src/main.o $(LIB)
	$(Q)scripts/build-wheel --cc '$(CC)' --version $(VERSION) --output $(BUILD)/wheel $^

# From a copy, because dpkg-buildpackage writes beside the folder it builds.
deb:
	$(Q)scripts/build-deb $(BUILD)/deb

.PHONY: demo check objects check-unit check-corpus check-layers check-e2e check-ptrace \
        check-matrix fuzz fuzz-run bench soak lint format install uninstall dist wheel deb
