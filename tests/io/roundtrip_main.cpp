// Writes files for Python to read and reads files Python wrote, for python_formats_test.py.
//   roundtrip write DIR       DIR/sharded/…, DIR/file.h5
//   roundtrip convert IN OUT  the weights at IN as one safetensors file
//   roundtrip resave IN OUT BYTES  the weights at IN as a folder of shards of at most so many bytes
//   roundtrip torch IN OUT    the weights at IN as one file of torch.save
//   roundtrip hdf5 FILE       shows attributes and values of a file h5py wrote
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tessera/core/error.hpp"
#include "tessera/io/hdf5.hpp"
#include "tessera/io/model_folder.hpp"
#include "tessera/io/model_writer.hpp"
#include "tessera/io/ragged.hpp"
#include "tessera/io/torch_writer.hpp"

namespace tessera::io {
namespace {

template <class T>
std::vector<T> ramp(std::int64_t count) {
  std::vector<T> out(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<T>(i * 3);
  return out;
}

void write_model(const std::filesystem::path& directory) {
  const std::vector<TensorInfo> table{{"first.weight", Elem::f32, {7, 3}},
                                      {"second/\"ü\"", Elem::i64, {4}},
                                      {"bytes", Elem::u8, {2, 0, 3}},
                                      {"scalar", Elem::f64, {}},
                                      {"last", Elem::i16, {5}}};
  ModelWriter writer(directory, table, 100);
  writer.write("first.weight", 0, 20, ramp<float>(21).data());
  writer.write("first.weight", 20, 1, ramp<float>(21).data() + 20);
  writer.write("second/\"ü\"", 0, 4, ramp<std::int64_t>(4).data());
  writer.write("last", 0, 5, ramp<std::int16_t>(5).data());
  const double scalar = 0.1;
  writer.write("scalar", 0, 1, &scalar);
  writer.commit();
}

template <class T>
void write_dataset(H5File& file, const std::string& name, H5Type type) {
  const auto values = ramp<T>(80);
  file.create_dataset(name, type, {.chunk = 13, .deflate = 4}).append(std::span<const T>(values));
}

void write_hdf5(const std::filesystem::path& path) {
  H5File file = H5File::create(path);
  file.attributes().set("title", "größe");
  file.attributes().set("version", std::int64_t{3});
  file.attributes().set("scale", 0.25);
  write_dataset<std::uint8_t>(file, "all/u8", H5Type::u8);
  write_dataset<std::uint16_t>(file, "all/u16", H5Type::u16);
  write_dataset<std::int32_t>(file, "all/i32", H5Type::i32);
  write_dataset<std::int64_t>(file, "all/i64", H5Type::i64);
  write_dataset<float>(file, "all/f32", H5Type::f32);
  write_dataset<double>(file, "all/f64", H5Type::f64);
  RaggedWriter<std::uint8_t> texts(file, "texts");
  for (const char* text : {"one", "", "größe"}) texts.append(as_row(text));
  texts.finish();
  file.commit();
}

void convert(const std::filesystem::path& in, const std::filesystem::path& out) {
  const SourcePtr source = open_weights(in);
  SafetensorsWriter writer(out, source->tensors());
  for (const auto& info : source->tensors()) {
    std::vector<char> bytes(static_cast<std::size_t>(info.numel()) * size_of(info.type));
    source->read(info, 0, info.numel(), bytes.data());
    writer.write(info.name, 0, info.numel(), bytes.data());
  }
  writer.commit();
}

void resave(const std::filesystem::path& in, const std::filesystem::path& out, std::int64_t shard_bytes) {
  const SourcePtr source = open_weights(in);
  ModelWriter writer(out, source->tensors(), shard_bytes);
  for (const auto& info : source->tensors()) {
    std::vector<char> bytes(static_cast<std::size_t>(info.numel()) * size_of(info.type));
    source->read(info, 0, info.numel(), bytes.data());
    writer.write(info.name, 0, info.numel(), bytes.data());
  }
  writer.commit();
}

void save_for_torch(const std::filesystem::path& in, const std::filesystem::path& out) {
  const SourcePtr source = open_weights(in);
  TorchFileWriter writer(out);
  for (const auto& info : source->tensors()) {
    std::vector<char> bytes(static_cast<std::size_t>(info.numel()) * size_of(info.type));
    source->read(info, 0, info.numel(), bytes.data());
    writer.write(info, bytes.data());
  }
  writer.commit();
}

/// What h5py wrote, as text.
void show_hdf5(const std::filesystem::path& path) {
  const H5File file = H5File::open(path);
  std::printf("%s|%s|%s|%lld|%g\n", file.attributes().text("text").c_str(), file.attributes().text("fixed").c_str(),
              file.attributes().text("bytes").c_str(), static_cast<long long>(file.attributes().integer("n")),
              file.attributes().real("x"));
  for (const auto value : file.dataset("g/i32").read_all<std::int32_t>()) std::printf("%d ", value);
  for (const auto value : file.dataset("f64_big_endian").read_all<double>()) std::printf("%g ", value);
  std::printf("\n");
}

int run(int argc, char** argv) {
  const std::string verb = argc > 1 ? argv[1] : "";
  if (verb == "write" && argc == 3) {
    write_model(std::filesystem::path(argv[2]) / "sharded");
    write_hdf5(std::filesystem::path(argv[2]) / "file.h5");
  } else if (verb == "convert" && argc == 4) {
    convert(argv[2], argv[3]);
  } else if (verb == "resave" && argc == 5) {
    resave(argv[2], argv[3], std::atoll(argv[4]));
  } else if (verb == "torch" && argc == 4) {
    save_for_torch(argv[2], argv[3]);
  } else if (verb == "hdf5" && argc == 3) {
    show_hdf5(argv[2]);
  } else {
    throw RequestError("usage: roundtrip write DIR | convert IN OUT | resave IN OUT BYTES | torch IN OUT | hdf5 FILE");
  }
  return 0;
}

}  // namespace
}  // namespace tessera::io

int main(int argc, char** argv) {
  try {
    return tessera::io::run(argc, argv);
  } catch (const tessera::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.status());
  }
}
