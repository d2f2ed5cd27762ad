/* The text of a frame: files as shown, C++ names as shown, each kind of frame. */
#include "unit.h"

#include "../../src/output/output_priv.h"
#include "written.h"

static void shows_what_follows_the_library_folder(void **state)
{
  (void)state;
  static const char *const cases[][2] = {
      {"/usr/lib/python3/dist-packages/torch/autograd/gradcheck.py",
       "torch/autograd/gradcheck.py"},
      {"/v/lib/python3.11/site-packages/a/b.py", "a/b.py"},
      {"/v/site-packages/x/vendor/site-packages/y.py", "y.py"},
      {"/usr/lib/python3.11/unittest/case.py", "unittest/case.py"},
      {"/opt/lib/python3.13t/os.py", "os.py"},
      {"/usr/lib/python3.11/", "/usr/lib/python3.11/"},
      {"/usr/lib/python3.x/os.py", "/usr/lib/python3.x/os.py"},
      {"/my-site-packages/a.py", "/my-site-packages/a.py"},
      {"/home/u/proj/tests/test_a.py", "tests/test_a.py"},
      {"/home/u/project/a.py", "/home/u/project/a.py"},
      {"/home/u/proj/", "/home/u/proj/"},
      {"<frozen importlib._bootstrap>", "<frozen importlib._bootstrap>"},
      {"tests/test_a.py", "tests/test_a.py"},
      {"", ""},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    assert_string_equal(ss_file_shown(cases[i][0], "/home/u/proj"), cases[i][1]);
  assert_string_equal(ss_file_shown("/home/u/proj/a.py", "/home/u/proj/"), "a.py");
  assert_string_equal(ss_file_shown("/a.py", NULL), "/a.py");
  assert_string_equal(ss_file_shown("/a.py", "/"), "/a.py");
}

static void knows_library_code(void **state)
{
  (void)state;
  assert_true(ss_file_is_library("/usr/lib/python3/dist-packages/_pytest/main.py"));
  assert_true(ss_file_is_library("/usr/lib/python3.11/os.py"));
  assert_true(ss_file_is_library("<frozen runpy>"));
  assert_false(ss_file_is_library("/home/u/proj/tests/test_a.py"));
  assert_false(ss_file_is_library("<string>"));
}

static void shows_names_without_types(void **state)
{
  (void)state;
  static const char *const cases[][2] = {
      {"malloc", "malloc"},
      {"at::_ops::mm::call(at::Tensor const&, at::Tensor const&)", "at::_ops::mm::call"},
      {"void at::f<int, (anonymous namespace)::X>(int)",
       "at::f<int, (anonymous namespace)::X>"},
      {"(anonymous namespace)::f(int)", "(anonymous namespace)::f"},
      {"a::(anonymous namespace)::f(int) const", "a::(anonymous namespace)::f"},
      {"std::vector<int, std::allocator<int> > f<int>(int)", "f<int>"},
      {"__libc_start_main@@GLIBC_2.34", "__libc_start_main"},
      {"f(int)::{lambda(float)#1}::operator()(float) const",
       "f(int)::{lambda(float)#1}::operator()"},
      {"std::function<void (int)>::operator()(int) const",
       "std::function<void (int)>::operator()"},
      {"std::ostream& std::operator<< <char>(std::ostream&, char)",
       "std::operator<< <char>"},
      {"X::operator->() const", "X::operator->"},
      {"X::operator unsigned long() const", "X::operator unsigned long"},
      {"operator new(unsigned long)", "operator new"},
      {"bool operator<(X const&, X const&)", "operator<"},
      {"f(int) [clone .constprop.0]", "f [clone .constprop.0]"},
      {"f(int)::counter", "f(int)::counter"},
      {"vtable for X", "vtable for X"},
      {"broken<(", "broken<("},
      {"broken)(", "broken)("},
      {"(", "("},
      {"", ""},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct ss_buf out = {0};
    ss_symbol_shown(cases[i][0], &out);
    assert_string_equal(ss_buf_str(&out), cases[i][1]);
    ss_buf_release(&out);
  }
}

/* Every prefix of a hard name is itself a name that may come from a file. */
static void takes_cut_off_names(void **state)
{
  (void)state;
  static const char name[] =
      "void a::f<(anonymous namespace)::X, b<c>>(d::{lambda(int)#1}"
      "&&, e (*)(int))::operator()<<char>(f) const [clone .x]";
  for (size_t len = 0; len < sizeof name; len++) {
    char *cut = strndup(name, len);
    struct ss_buf out = {0};
    ss_symbol_shown(cut, &out);
    assert_true(out.len <= len);
    ss_buf_release(&out);
    free(cut);
  }
}

static void fill_frames(struct fx *fx)
{
  fx_metas(fx, 1);
  fx_py(fx, "test_a", FX_CWD "/tests/test_a.py", 12);
  fx_native(fx, "at::_ops::mm::call(at::Tensor const&)", fx->torch);
  struct ss_frame_row nameless = {.kind = SS_FRAME_NATIVE,
                                  .name = SS_ID_NONE,
                                  .file = SS_ID_NONE,
                                  .module = fx->gomp,
                                  .offset = 0x1d9a0};
  ss_store_frame(fx->store, &nameless);
  nameless.module = SS_ID_NONE;
  ss_store_frame(fx->store, &nameless);
  fx_other(fx, SS_FRAME_KERNEL, "clear_page_erms");
  fx_other(fx, SS_FRAME_SYNTHETIC, "[kernel: page fault]");
}

static void writes_each_kind(void **state)
{
  (void)state;
  static const char *const texts[] = {
      "test_a (tests/test_a.py:12)",
      "at::_ops::mm::call (libtorch_cpu.so)",
      "libgomp.so.1+0x1d9a0",
      "[unknown]",
      "clear_page_erms",
      "[kernel: page fault]",
  };
  struct written w;
  struct ss_texts t;
  written_open(&w, fill_frames);
  assert_int_equal(ss_texts_init(&t, w.profile, NULL), SS_ERR_OK);
  for (uint32_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    struct ss_buf out = {0};
    ss_frame_text(w.profile, i, &out);
    assert_string_equal(ss_buf_str(&out), texts[i]);
    assert_string_equal(ss_texts_str(&t, ss_texts_frame(&t, i), NULL), texts[i]);
    ss_buf_release(&out);
  }
  uint32_t mm = ss_texts_frame(&t, 1);
  assert_int_equal(t.texts[mm].kind, SS_TEXT_OPERATOR);
  assert_string_equal(ss_texts_str(&t, t.texts[mm].op, NULL), "aten::mm");
  assert_int_equal(t.texts[ss_texts_frame(&t, 5)].kind, SS_TEXT_KERNEL);
  ss_texts_release(&t);
  written_close(&w);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(shows_what_follows_the_library_folder),
      cmocka_unit_test(knows_library_code),
      cmocka_unit_test(shows_names_without_types),
      cmocka_unit_test(takes_cut_off_names),
      cmocka_unit_test(writes_each_kind),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
