//! The number that is burnt into each picture, and the block that flashes once a second.
//!
//! Along the top are two rows of 20 blocks, 16 by 16 pixels each in a picture of 320 by 180. The first is the
//! same in all pictures, so that it can be found and says what black and white are. The second holds the
//! 16 bits of the number, most significant first, white for one, and four bits of a CRC over them.

/// Width of the pictures, in pixels.
pub const WIDTH: usize = 320;
/// Height of the pictures, in pixels.
pub const HEIGHT: usize = 180;

/// Edge of a block, in pixels.
pub(super) const BLOCK: usize = 16;
/// Blocks in a row.
pub(super) const BLOCKS: usize = WIDTH / BLOCK;
/// What the number takes of a picture, in lines.
pub const MARK_LINES: usize = 2 * BLOCK;

/// The first row, its first block in the highest bit.
const SYNC: u32 = 0b1110_0010_1101_0011_0101;

/// White must be this much brighter than black.
const CONTRAST: f64 = 60.0;
/// How far a block may be from black or white, of the way between them.
const DOUBT: f64 = 0.35;

/// Where the block that flashes begins, and its edge, in pixels.
const FLASH: (usize, usize) = (WIDTH - 64, HEIGHT - 64);
const FLASH_EDGE: usize = 48;

/// Black and white as video has them.
const BLACK: u8 = 16;
const WHITE: u8 = 235;

/// Whether a block of the first row is white.
pub(super) fn sync_bit(column: usize) -> bool {
    SYNC >> (BLOCKS - 1 - column) & 1 == 1
}

/// CRC-4 of a number (ITU-T G.704, polynomial x^4 + x + 1).
fn check(number: u16) -> u32 {
    let rest = (0..16).rev().fold(u32::from(number) << 4, |rest, bit| {
        if rest >> (bit + 4) & 1 == 1 { rest ^ 0b1_0011 << bit } else { rest }
    });
    rest & 0xf
}

/// Draws the number and the flashing block into the brightness of a picture of [`WIDTH`] by [`HEIGHT`].
pub fn draw(luma: &mut [u8], number: u16, flashes: bool) {
    let bits = u32::from(number) << 4 | check(number);
    for (row, bits) in [SYNC, bits].into_iter().enumerate() {
        for column in 0..BLOCKS {
            let is_white = bits >> (BLOCKS - 1 - column) & 1 == 1;
            fill(luma, (column * BLOCK, row * BLOCK), BLOCK, is_white);
        }
    }
    fill(luma, FLASH, FLASH_EDGE, flashes);
}

fn fill(luma: &mut [u8], (left, top): (usize, usize), edge: usize, is_white: bool) {
    for line in luma.chunks_exact_mut(WIDTH).skip(top).take(edge) {
        line[left..left + edge].fill(if is_white { WHITE } else { BLACK });
    }
}

/// Whether a place, in pixels, is black or white in all pictures.
pub(super) fn covers(x: usize, y: usize) -> bool {
    let flashes = |at: usize, from: usize| (from..from + FLASH_EDGE).contains(&at);
    y < MARK_LINES || flashes(x, FLASH.0) && flashes(y, FLASH.1)
}

/// The number in a grey picture of any size that shows the whole of what was drawn; `stride` is the length of
/// a line in bytes. None where there is no such picture, or it cannot be told what it shows.
pub fn number_in(gray: &[u8], width: usize, height: usize, stride: usize) -> Option<u16> {
    let block = |row: usize, column: usize| {
        let (left, top) = (column * BLOCK, row * BLOCK);
        mean(gray, (width, height, stride), (left, top), BLOCK)
    };
    let sync: Vec<f64> = (0..BLOCKS).map(|column| block(0, column)).collect::<Option<_>>()?;
    let level = |white: bool| {
        let of_it: Vec<f64> =
            (0..BLOCKS).filter(|&column| sync_bit(column) == white).map(|at| sync[at]).collect();
        of_it.iter().sum::<f64>() / of_it.len() as f64
    };
    let (black, white) = (level(false), level(true));
    if white - black < CONTRAST {
        return None;
    }
    let bit = |brightness: f64| {
        let share = (brightness - black) / (white - black);
        ((share - 0.5).abs() > 0.5 - DOUBT).then_some(share > 0.5)
    };
    if !(0..BLOCKS).all(|column| bit(sync[column]) == Some(sync_bit(column))) {
        return None;
    }
    let bits = (0..BLOCKS)
        .try_fold(0, |bits: u32, column| Some(bits << 1 | u32::from(bit(block(1, column)?)?)))?;
    let number = u16::try_from(bits >> 4).ok()?;
    (check(number) == bits & 0xf).then_some(number)
}

/// Whether the block that flashes is white in a grey picture of [`WIDTH`] by [`HEIGHT`].
pub(super) fn is_flashing(gray: &[u8]) -> bool {
    const MIDDLE: f64 = (BLACK as f64 + WHITE as f64) / 2.0;
    mean(gray, (WIDTH, HEIGHT, WIDTH), FLASH, FLASH_EDGE).is_some_and(|mean| mean > MIDDLE)
}

/// Mean brightness of the middle of a block, whose place is given in pixels of what was drawn. None where the
/// picture has no such place.
fn mean(
    gray: &[u8],
    (width, height, stride): (usize, usize, usize),
    (left, top): (usize, usize),
    edge: usize,
) -> Option<f64> {
    // A quarter at each side is left to what codecs and scaling smear.
    let span = |from: usize, size: usize, of: usize| {
        let at = |quarters: usize| (4 * from + quarters * edge) * size / (4 * of);
        at(1)..at(3)
    };
    let columns = span(left, width, WIDTH);
    let lines = span(top, height, HEIGHT);
    let count = columns.len() * lines.len();
    if count == 0 || width > stride {
        return None;
    }
    let mut sum = 0;
    for line in lines {
        let pixels = gray.get(line * stride + columns.start..line * stride + columns.end)?;
        sum += pixels.iter().map(|&pixel| usize::from(pixel)).sum::<usize>();
    }
    Some(sum as f64 / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(number: u16) -> Vec<u8> {
        let mut luma = vec![128; WIDTH * HEIGHT];
        draw(&mut luma, number, false);
        luma
    }

    #[test]
    fn every_number_is_read_back() {
        for number in 0..=u16::MAX {
            assert_eq!(number_in(&drawn(number), WIDTH, HEIGHT, WIDTH), Some(number));
        }
    }

    #[test]
    fn one_wrong_block_is_noticed() {
        for row in 0..2 {
            for column in 0..BLOCKS {
                let mut luma = drawn(0x5a17);
                let was_white = luma[row * BLOCK * WIDTH + column * BLOCK] == WHITE;
                fill(&mut luma, (column * BLOCK, row * BLOCK), BLOCK, !was_white);
                assert_eq!(number_in(&luma, WIDTH, HEIGHT, WIDTH), None, "{row} {column}");
            }
        }
    }

    #[test]
    fn what_is_no_such_picture_has_no_number() {
        let luma = drawn(7);
        for (gray, width, height, stride) in [
            (&[][..], 0, 0, 0),
            (&[], WIDTH, HEIGHT, WIDTH),
            (&luma, WIDTH, HEIGHT, 0),
            (&luma[..BLOCK * WIDTH], WIDTH, HEIGHT, WIDTH),
            (&luma[BLOCK * WIDTH..], WIDTH, HEIGHT - BLOCK, WIDTH),
            (&[128; WIDTH * HEIGHT], WIDTH, HEIGHT, WIDTH),
        ] {
            assert_eq!(number_in(gray, width, height, stride), None, "{width}x{height}");
        }
    }

    #[test]
    fn half_of_another_picture_is_noticed() {
        // As where a picture is read while it is drawn over: the upper half of its blocks is new.
        let (old, new) = (drawn(0b0101), drawn(0b1010));
        let cut = (BLOCK + BLOCK / 2) * WIDTH;
        let torn = [&new[..cut], &old[cut..]].concat();
        assert_eq!(number_in(&torn, WIDTH, HEIGHT, WIDTH), None);
    }

    #[test]
    fn scaled_pictures_are_read() {
        let luma = drawn(0xbeef);
        for (width, height) in [(640, 360), (1280, 720), (160, 90), (200, 113), (321, 181)] {
            let stride = width + 5;
            let pixel = |at: usize| {
                let (x, y) = (at % stride, at / stride);
                if x < width { luma[y * HEIGHT / height * WIDTH + x * WIDTH / width] } else { 0 }
            };
            let scaled: Vec<u8> = (0..stride * height).map(pixel).collect();
            assert_eq!(number_in(&scaled, width, height, stride), Some(0xbeef), "{width}");
        }
    }
}
